"""GGUF files: transformers takes half a minute over each, so what it makes of one is kept in the cache."""

import secrets
import shutil
from pathlib import Path

import torch

from icecore.backbones import huggingface
from icecore.core.errors import StorageError
from icecore.core.storage import cache_dir, digest, storage_errors, write_atomic


def converted(path: Path) -> tuple[str, str | None]:
    """Where the body in the GGUF file `path` is to be read from: (folder, GGUF file in it or None).

    A `save_pretrained` folder of the cache in fp32, made here if this is the first time, and known by the file's
    content and transformers' version; the file itself where the cache cannot be written. Raises ConfigError for
    other families than ours, WeightsError where tensors are missing, and what transformers raises.
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
        config = transformers.AutoConfig.from_pretrained(place, gguf_file=file)
        model, report = huggingface.model_class(huggingface.family_of(config)).from_pretrained(
            place, config=config, gguf_file=file, dtype=torch.float32, output_loading_info=True
        )
        huggingface.check_complete(report, str(path), config.model_type)
        made = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
        try:
            with storage_errors(folder):
                # the library's save_pretrained refuses what came from a GGUF file, though it is plain fp32 by now
                vars(config).pop("quantization_config", None)
                config.save_pretrained(made)
                held = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
                write_atomic(made / "model.safetensors", lambda file: save_file(held, file, {"format": "pt"}))
                if not folder.is_dir():  # another process may have been faster
                    made.rename(folder)
        except StorageError:
            return place, file
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return str(folder), None
