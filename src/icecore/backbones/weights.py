"""Where a body's weights come from: pretrained, random, statistics, or a weights file.

Random weights need no download, because the sizes of the named models are in NAMED. The network is used only to load
the pretrained weights of a hub model.
"""

import contextlib
import functools
import json
import pickle  # nosec B403
import threading
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from icecore.backbones import families, gguf, huggingface
from icecore.backbones.backbone import Backbone, BodyRequest, HubAccess
from icecore.backbones.first_token import first_token_id
from icecore.backbones.modules import attention
from icecore.backbones.named_models import NAMED, Named
from icecore.backbones.packages import Location
from icecore.backbones.weight_check import check_values
from icecore.core.errors import UserError, WeightsError
from icecore.core.storage import write_atomic
from icecore.core.text import reason

WEIGHTS = ("pretrained", "random", "statistics")
CHECKPOINTS = tuple(stem + end for stem in ("model.safetensors", "pytorch_model.bin") for end in ("", ".index.json"))


#: the library draws random weights from the one generator of the process, and its verbosity is the process's too
_BUILDING = threading.RLock()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Hugging Face's progress bars and reports for a while: a shortened or headless body is intended here."""
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    library: Any = modeling_gguf_pytorch_utils  # it has a progress bar of its own
    bar = getattr(library, "tqdm", None)
    if bar is not None:
        library.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        if bar is not None:
            library.tqdm = bar
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def build_transformer(request: BodyRequest) -> Backbone:
    """A Hugging Face body: a name of NAMED, a `save_pretrained` folder, a GGUF file, or a hub name `org/model`."""
    attention.register()
    try:
        with _BUILDING, _quiet():
            if request.weights == "pretrained":
                return _pretrained(request)
            body = _random(request)
            if request.weights == "statistics":
                match_statistics(body, _pretrained(request), request.seed)
        return body
    except (UserError, MemoryError):
        raise
    except Exception as error:  # an odd configuration may make the library raise nearly anything
        place = _locate(request.name).place
        if request.name in NAMED or not Path(place).is_dir():
            raise
        raise _load_error(request.name, place, error) from error


def _pretrained(request: BodyRequest) -> Backbone:
    location = _opened(request.name)
    place, file = location.place, location.file
    config = huggingface.prepare_config(_read_config(request.name, place, file, request.hub), request.layers)
    family = families.family_of(config)
    try:
        model, report = families.model_class(family).from_pretrained(
            place,
            config=config,
            dtype=torch.float32,
            attn_implementation=family.attention,
            output_loading_info=True,
            **_access(place, file, CHECKPOINTS, request.hub),
        )
    except Exception as error:
        raise _load_error(request.name, place, error) from error
    huggingface.check_complete(report, place, config.model_type)
    named = NAMED.get(request.name)
    token = named.first_token if named and named.first_token is not None else first_token_id(config, place)
    body = huggingface.build(config, request.name, "pretrained", location.source, model, token)
    check_values(body, request.name)
    return body


def _random(request: BodyRequest) -> Backbone:
    """The family's own initialisation, seeded by `request.seed`. Reads sizes only, never weights."""
    config = huggingface.prepare_config(_sizes(request.name, request.hub), request.layers)
    family = families.family_of(config)
    # the token embedding is dropped at once, so it is made as small as its padding index allows
    padding = getattr(config, "pad_token_id", None)
    if padding is not None and not 0 <= padding < 16:
        padding = config.pad_token_id = None
    config.vocab_size = (padding or 0) + 1
    config._attn_implementation = family.attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        model = families.model_class(family)(config)
    return huggingface.build(config, request.name, request.weights, f"random, seed {request.seed}", model)


def _sizes(name: str, hub: HubAccess) -> Any:
    """Configuration of the model `name`; that of a named model needs no files."""
    from transformers import AutoConfig

    named = NAMED.get(name)
    if named is not None:
        return AutoConfig.for_model(named.family, **named.sizes)
    location = _locate(name)
    return _read_config(name, location.place, location.file, hub)


def sizes_of(name: str, layers: int | None = None, hub: HubAccess = "off") -> tuple[int, int]:
    """(layers, width) of the transformer `name`, with `layers` layers. Raises WeightsError if it is not here.

    hub  whether the hub may be asked for the sizes of a model that is not on this machine
    """
    config = _sizes(name, hub)
    return layers or config.num_hidden_layers, config.hidden_size


def _locate(name: str, opens: bool = False) -> Location:
    """Where the pretrained weights of `name` are, after those of a split package were made readable if `opens`.

    Raises WeightsError for a folder that is no body, and for packages that are not installed if they are the only
    source, or that are incomplete.
    """
    named = NAMED.get(name)
    return _place(name) if named is None else _named_location(name, named, opens)


def _opened(name: str) -> Location:
    """As `_locate`, but weights are readable, and a GGUF file is replaced by the folder of its conversion."""
    location = _locate(name, opens=True)
    if location.file is None:
        return location
    try:
        return Location(*gguf.converted(Path(location.place) / location.file), location.source)
    except UserError:
        raise
    except Exception as error:
        raise _load_error(name, location.place, error) from error


def _place(name: str) -> Location:
    """The folder, GGUF file or hub model `name`."""
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return Location(str(path.parent), path.name, str(path))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise WeightsError(f"The folder {path} has no config.json. A body is a folder written by save_pretrained.")
        return Location(str(path), None, str(path))
    return Location(name, None, f"hub {name}")


def _named_location(name: str, named: Named, opens: bool) -> Location:
    """The package that has the weights, made readable if `opens`, or else the hub model."""
    package = named.package
    if package is not None and (location := package.open() if opens else package.locate()) is not None:
        return location
    if named.hub is None:
        assert package is not None
        raise WeightsError(
            f"There are no pretrained weights for {name} on this machine. Run `{package.install}`. "
            "--weights random needs no download."
        )
    return Location(named.hub, None, f"hub {named.hub}")


def installed(name: str) -> bool:
    """Whether the pretrained weights of the named model are on this machine. Uses no network."""
    named = NAMED[name]
    try:
        if named.package is not None and named.package.locate() is not None:
            return True
    except WeightsError:
        return False
    return named.hub is not None and _cached(named.hub, CHECKPOINTS)


def _cached(place: str, files: Iterable[str]) -> bool:
    """Whether the hub's cache holds one of `files` of the hub model `place`."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return any(isinstance(try_to_load_from_cache(place, file), str) for file in files)
    except (HFValidationError, ValueError, OSError):  # a name that no model and no folder can have
        return False


class _NotPermittedError(Exception):
    """The model would have to be fetched from the hub, which the user has not permitted."""


def _access(place: str, file: str | None, files: Iterable[str], hub: HubAccess) -> dict[str, Any]:
    """Arguments of `from_pretrained` to read one of `files` from `place`.

    Cached files are used without the network. For others the hub is asked once, with a limit of ten seconds, because
    the library would repeat a hopeless request for half a minute. Raises what the hub's client raises, and
    _NotPermittedError if the hub may not be asked.
    """
    if file is not None:
        return {"gguf_file": file, "local_files_only": True}
    if Path(place).is_dir():
        # a folder may name an adapter's base model, which the library would fetch
        return {"local_files_only": True}
    if _cached(place, files):
        return {"local_files_only": True}
    if hub == "off":
        raise _NotPermittedError
    from huggingface_hub import HfApi

    token = None if hub == "login" else False
    HfApi(token=token).model_info(place, timeout=10)
    return {"token": token}


def _read_config(name: str, place: str, file: str | None, hub: HubAccess) -> Any:
    from transformers import AutoConfig

    try:
        # never run code that comes with a model; without the argument, the library asks the user on the terminal
        access = _access(place, file, ["config.json"], hub)
        return AutoConfig.from_pretrained(place, trust_remote_code=False, **access)
    except Exception as error:
        raise _load_error(name, place, error) from error


def _load_error(name: str, place: str, error: Exception) -> WeightsError:
    """The error for weights that did not load, with the remedy."""
    cause = " ".join(reason(error).split())
    if Path(place).is_dir():
        return _damaged_folder(place, error, cause)
    if isinstance(error, _NotPermittedError):
        return WeightsError(
            f"The body {name} is not on this machine, and icecore does not fetch what a file names by itself. If you "
            f"trust {place}, give the command again with --download (in Python: download=True)."
        )
    named = next((n for n in NAMED.values() if place == n.hub), None)
    install = f"`{named.package.install}`, or " if named is not None and named.package is not None else ""
    return WeightsError(
        f"There are no pretrained weights for {name}: the hub model {place} is neither cached nor reachable ({cause}). "
        f"Run {install}`hf download {place}` on a machine with network access, and give the folder as --backbone DIR "
        "(for a table of the paper: --body DIR). --weights random needs no download."
    )


def _damaged_folder(place: str, error: Exception, cause: str) -> WeightsError:
    """The error for a folder with a body that did not load, with the remedy."""
    if isinstance(error, pickle.UnpicklingError):
        # the library's text explains how to run what the file contains
        return WeightsError(
            f"The checkpoint in {place} is damaged, or holds something other than tensors, which icecore does not run. "
            "Use a model with .safetensors files, or get this one again; if it came with git, run `git lfs pull`."
        )
    if isinstance(error, FileNotFoundError | EOFError | SafetensorError | json.JSONDecodeError | zipfile.BadZipFile):
        detail = cause if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {cause}"
        return WeightsError(
            f"The model in {place} is incomplete or damaged ({detail}). Get all of its files again; if they came with "
            "git, fetch the large ones with `git lfs pull`."
        )
    return WeightsError(
        f"{place} cannot be loaded as a body ({type(error).__name__}: {cause}). If it was written by save_pretrained, "
        "get its files again, and check the values in its config.json."
    )


@torch.no_grad()
def match_statistics(body: Backbone, model: Backbone, seed: int = 0) -> None:
    """Give each tensor of `body` the mean and standard deviation that it has in `model` (paper, Table 9), in place.

    Tensors that start constant (norm gains, biases) are first drawn from a normal distribution, by `seed`.
    """
    generator = torch.Generator().manual_seed(seed)
    targets = model.tensors()
    body.embedding_spread = model.embedding_spread
    for name, tensor in body.tensors().items():
        target = targets[name].float()
        start = tensor.float()
        if start.numel() > 1 and start.std() == 0:
            start = torch.randn(start.shape, generator=generator)
        spread = start.std(correction=0)
        unit = (start - start.mean()) / spread if spread > 0 else torch.zeros_like(start)
        tensor.copy_(unit * target.std(correction=0) + target.mean())


def save(body: Backbone, path: Path) -> None:
    """Write the whole body to a safetensors file that `load` and `--weights FILE` read."""
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous().cpu() for name, tensor in body.tensors().items()}
    header = {"icecore": "body", "name": body.info.name}
    write_atomic(path, lambda temporary: save_file(tensors, temporary, header), "Choose another file.")


@torch.no_grad()
def load(body: Backbone, path: Path) -> None:
    """Fill `body` from a file that `save` wrote.

    Raises WeightsError naming the first tensor that does not fit or cannot be used.
    """
    from safetensors.torch import load_file

    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is not a readable weights file ({error}). Copy it again.") from error
    for name, tensor in body.tensors().items():
        if name not in stored:
            raise WeightsError(
                f"{path} has no tensor {name}. The file was written for another body than {body.info.name}."
            )
        if stored[name].shape != tensor.shape:
            raise WeightsError(
                f"{path}: tensor {name} has shape {tuple(stored[name].shape)}, expected {tuple(tensor.shape)}."
            )
        if not stored[name].isfinite().all():
            raise WeightsError(f"{path}: tensor {name} has values that are not finite numbers. Use another file.")
        tensor.copy_(stored[name])
    check_values(body, str(path))
