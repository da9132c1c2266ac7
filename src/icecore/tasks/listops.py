"""ListOps as a task: Long Range Arena's own "basic" files if found, else expressions drawn by its rule and cached.

expressions.py draws, writes and reads expressions; here are their cache, their splits and their tokens.
"""

import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from icecore.core.errors import ConfigError, DataError
from icecore.core.storage import cache_dir, write_atomic
from icecore.tasks.data_files import data_roots, find_first
from icecore.tasks.expressions import (
    CLOSE,
    MAX_LENGTH,
    MIN_LENGTH,
    VOCABULARY,
    Expressions,
    Progress,
    generate,
    read_tsv,
)
from icecore.tasks.task import Examples, StoredTask, TaskDefaults, TaskRequest, TaskSpec, read_options

# `length` cuts what is read; `shortest` and `longest` bound what is drawn: smaller trees are another, easier task
LISTOPS_OPTIONS: Mapping[str, int] = {
    "train": 96_000,
    "val": 2_000,
    "test": 2_000,
    "length": MAX_LENGTH,
    "shortest": MIN_LENGTH,
    "longest": MAX_LENGTH,
}
TOKENS_FAULT = "listops-tokens"
FAULT_LENGTH = 512

# --- the cache ---------------------------------------------------------------------------------------


def load_generated(
    count: int,
    seed: int = 0,
    progress: Progress | None = None,
    shortest: int = MIN_LENGTH,
    longest: int = MAX_LENGTH,
) -> Expressions:
    """`generate`, kept in the cache folder. A damaged cache file fails its checksum and is drawn again.

    Raises ConfigError where too few trees fit the bounds, StorageError where the cache cannot be written.
    """
    path = cache_dir() / "listops" / f"basic-v1-{shortest}-{longest}-seed{seed}-{count}.npz"
    with suppress(OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return _load(path)
    expressions = generate(count, seed, progress, shortest, longest)
    # other processes may write the same file at this moment: each its own copy, then one atomic step
    write_atomic(path, lambda own: _save(own, expressions), "Name another folder with ICECORE_CACHE.")
    return expressions


def _save(path: Path, expressions: Expressions) -> None:
    lengths = np.array([len(source) for source in expressions.sources])
    tokens = np.frombuffer(b"".join(expressions.sources), np.uint8)
    with path.open("wb") as file:
        np.savez(file, tokens=tokens, lengths=lengths, targets=np.array(expressions.targets, np.uint8))


def _load(path: Path) -> Expressions:
    with path.open("rb") as file, np.load(file) as arrays:
        tokens, lengths, targets = arrays["tokens"].tobytes(), arrays["lengths"], arrays["targets"]
    ends = np.cumsum(lengths)
    sources = [tokens[first:last] for first, last in zip((ends - lengths).tolist(), ends.tolist(), strict=True)]
    return Expressions(sources, targets.tolist())


# --- the task ----------------------------------------------------------------------------------------


class ListOps(StoredTask):
    """The value, one of ten digits, of an expression of at most `length` tokens; longer ones lose their end.

    tokens (N, T) int64 of the 15 words and padding 0, targets (N,). With `published_tokens` every `]` is
    dropped and 512 tokens are kept, as the published code did (docs/method.md).
    """

    name = "listops"
    defaults = TaskDefaults(steps=2000, batch_size=16)

    def __init__(
        self,
        splits: Mapping[str, Expressions],
        length: int = MAX_LENGTH,
        published_tokens: bool = False,
        source: str = "generated",
    ) -> None:
        if published_tokens:
            length = min(length, FAULT_LENGTH)
        dropped = bytes([CLOSE]) if published_tokens else b""
        self.spec = TaskSpec("discrete", length, 1 + len(VOCABULARY), 10)
        data = {"source": source}
        for name, part in splits.items():
            data |= {f"{name}_examples": len(part), f"{name}_sha256": part.digest()}
        super().__init__({name: _padded(part, length, dropped) for name, part in splits.items()}, data)

    def tokens(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """Token ids (N, T) uint8 to int64."""
        return inputs.long()


def _padded(part: Expressions, length: int, dropped: bytes) -> Examples:
    sources = [source.translate(None, dropped)[:length] for source in part.sources]
    lengths = [len(source) for source in sources]
    rows = np.zeros((len(sources), max(lengths)), np.uint8)
    for row, source in zip(rows, sources, strict=True):
        row[: len(source)] = np.frombuffer(source, np.uint8)
    return Examples(torch.from_numpy(rows), torch.tensor(part.targets), torch.tensor(lengths))


def build_listops(request: TaskRequest, progress: Progress | None = None) -> ListOps:
    """ListOps from Long Range Arena's files where there are some, else generated (options: `LISTOPS_OPTIONS`).

    `train`, `val` and `test` are the sizes of the splits, at most those of the files. Files hold the usual trees,
    so others, by `shortest` and `longest`, are always generated. Raises ConfigError, DataError.
    """
    options = read_options(request, ListOps.name, LISTOPS_OPTIONS)
    for name, value in options.items():
        if value < 1:
            raise ConfigError(f"option {name} of listops: expected at least 1, found {value}")
    length, shortest, longest = (options.pop(name) for name in ("length", "shortest", "longest"))
    if longest < shortest + 2:
        raise ConfigError(
            "options of listops: trees have more than shortest and less than longest tokens, so expected longest at "
            f"least shortest + 2, found shortest={shortest} longest={longest}"
        )
    usual = (shortest, longest) == (MIN_LENGTH, MAX_LENGTH)
    folder = _folder(request.data_dir) if usual else None
    if folder is not None:
        splits = {name: read_tsv(folder / f"basic_{name}.tsv", size) for name, size in options.items()}
        source = f"{folder.name}/basic_*.tsv"
    else:
        splits = _split(load_generated(sum(options.values()), 0, progress, shortest, longest), options)
        source = "generated by Long Range Arena's basic rule, seed 0"
        source += "" if usual else f", but trees of {shortest + 1} to {longest - 1} tokens"
    return ListOps(splits, min(length, longest), TOKENS_FAULT in request.faults, source)


def _split(expressions: Expressions, sizes: Mapping[str, int]) -> dict[str, Expressions]:
    """Test, val and train one after the other: a smaller training split leaves the other two as they are."""
    ends = {"test": sizes["test"], "val": sizes["test"] + sizes["val"], "train": sum(sizes.values())}
    return {name: expressions.part(ends[name] - size, ends[name]) for name, size in sizes.items()}


def _folder(data_dir: str | None) -> Path | None:
    """The folder with Long Range Arena's three files, or None. Raises DataError if it holds only some."""
    names = [f"basic_{split}.tsv" for split in ("train", "val", "test")]
    places = ("listops/", "lra_release/listops-1000/", "")
    first = find_first(data_roots(data_dir), [place + name for place in places for name in names])
    if first is None:
        return None
    absent = [name for name in names if not (first.parent / name).exists()]
    if absent:
        raise DataError(
            f"{first.parent}: found {first.name} but not {' and '.join(absent)}; put all three there, "
            "or none to have the data generated"
        )
    return first.parent
