"""GGUF files. Transformers takes half a minute to convert one, so the result is kept in the cache folder."""

from pathlib import Path

import torch

from icecore.backbones import families, huggingface
from icecore.core.errors import StorageError
from icecore.core.storage import cache_dir, create_folder, digest, storage_errors, write_atomic


def converted(path: Path) -> tuple[str, str | None]:
    """Where to read the body of the GGUF file `path` from: (folder, GGUF file in it or None).

    Usually this is a `save_pretrained` folder in the cache, in fp32, which is created the first time and is found by
    the file's content and the version of transformers. If the cache cannot be written, it is the file itself. Raises
    ConfigError for a family that icecore does not support, WeightsError if tensors are missing, and what transformers
    raises.
    """
    import transformers
    from safetensors.torch import save_file

    folder = cache_dir() / "gguf" / f"{digest(path)[:16]}-transformers-{transformers.__version__}"
    if not folder.is_dir():
        place, file = str(path.parent), path.name
        try:
            with storage_errors(folder):
                folder.parent.mkdir(parents=True, exist_ok=True)
        except StorageError:
            return place, file
        config = transformers.AutoConfig.from_pretrained(place, gguf_file=file, trust_remote_code=False)
        model, report = families.model_class(families.family_of(config)).from_pretrained(
            place, config=config, gguf_file=file, dtype=torch.float32, output_loading_info=True
        )
        huggingface.check_complete(report, str(path), config.model_type)

        def write(temporary: Path) -> None:
            # save_pretrained refuses models that came from a GGUF file, although the weights are plain fp32 by now
            vars(config).pop("quantization_config", None)
            config.save_pretrained(temporary)
            tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            write_atomic(temporary / "model.safetensors", lambda file: save_file(tensors, file, {"format": "pt"}))

        try:
            create_folder(folder, write)
        except StorageError:
            return place, file
    return str(folder), None
