"""Remote homology: which of 1,195 folds does a protein domain have? (Lu et al. 2021, section 2.1; TAPE's splits)

Amino acids are discrete tokens of TAPE's IUPAC vocabulary. The test splits are TAPE's three hold-outs: fold,
superfamily and family. The fault "homology-valid" scores as the published code does.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icecore.core.errors import ConfigError, DataError
from icecore.tasks.data_files import data_roots
from icecore.tasks.entry import TaskEntry, TaskRequest, paper_settings, read_options
from icecore.tasks.protein_files import ProteinRecord, locate, read
from icecore.tasks.stored_task import Examples, StoredTask
from icecore.tasks.task import TaskDefaults, TaskSpec

#: TAPE's IUPAC vocabulary; the id of a token is its index
IUPAC_VOCABULARY = ("<pad>", "<mask>", "<cls>", "<sep>", "<unk>", *"ABCDEFGHIKLMNOPQRSTUVWXYZ")
PAD, CLS, SEP, UNK = (IUPAC_VOCABULARY.index(token) for token in ("<pad>", "<cls>", "<sep>", "<unk>"))
#: token id of each byte of a sequence, in upper or lower case
LETTER_IDS = bytes(
    IUPAC_VOCABULARY.index(c) if (c := chr(code).upper()) in IUPAC_VOCABULARY else UNK for code in range(256)
)
FOLDS = 1195
#: number of examples in each of TAPE's splits
TAPE_COUNTS = {"train": 12312, "val": 736, "test_fold": 718, "test_superfamily": 1254, "test_family": 1272}
HOLD_OUTS = ("test_fold", "test_superfamily", "test_family")
HOMOLOGY_OPTIONS: Mapping[str, Any] = {"length": 1024}
#: mean number of amino acids of a domain
MEAN_RESIDUES = 170

#: the number of outputs in the published code, and its correction of the accuracy for the sequences that it drops
PUBLISHED_OUTPUTS = 1200
PUBLISHED_SCALE = 0.9739


class RemoteHomology(StoredTask):
    """Fold classification of protein domains.

    published  as in the published code: the only test split is "val", the accuracy is multiplied by 0.9739, and there
               are 1,200 outputs
    """

    name = "remote-homology"
    defaults = TaskDefaults(steps=2000, batch_size=8, lr=1e-3, eval_every=500)
    test_splits = HOLD_OUTS

    def __init__(
        self, splits: Mapping[str, Examples], data: Mapping[str, Any], length: int, published: bool = False
    ) -> None:
        super().__init__(splits, data)
        self.spec = self.spec_of(length, PUBLISHED_OUTPUTS if published else FOLDS)
        self.metric_scale = PUBLISHED_SCALE if published else 1.0
        if published:
            self.test_splits = ("val",)

    @staticmethod
    def spec_of(length: int, outputs: int = FOLDS) -> TaskSpec:
        """Sizes of the task for sequences of at most `length` tokens."""
        return TaskSpec("discrete", length, len(IUPAC_VOCABULARY), outputs)

    def tokens(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """Token ids (N, T) uint8 to (N, T) int64."""
        return inputs.long()

    def metric(self, logits: Tensor, targets: Tensor) -> Tensor:
        """1 if the fold is right, else 0 (N,), multiplied by 0.9739 if `published`. logits (N, 1, C), targets (N,)."""
        return super().metric(logits, targets) * self.metric_scale


def encode(sequence: str, length: int) -> bytes:
    """Token ids of `<cls> sequence <sep>`, at most `length` bytes; a longer sequence loses its end.

    Upper and lower case are the same, and a letter outside the vocabulary becomes `<unk>`.
    """
    letters = sequence[: length - 2].encode("ascii", "replace")
    return bytes([CLS, *letters.translate(LETTER_IDS), SEP])


def fold_indices(train: list[ProteinRecord]) -> dict[str, int]:
    """The class of each fold of the train split: the fold itself if all folds are integers, else its rank by name.

    Raises DataError if there are more classes than the task's 1,195.
    """
    names = sorted({record.fold for record in train})
    integers = all(name.isdecimal() for name in names)
    index = {name: int(name) if integers else rank for rank, name in enumerate(names)}
    for record in train:
        if index[record.fold] >= FOLDS:
            raise DataError(
                f"{record.location}: fold {record.fold!r} of {record.id!r} is class {index[record.fold]}, but this "
                f"task has the classes 0 to {FOLDS - 1}. Use `icecore fit` for other sets of proteins."
            )
    return index


def _examples(records: list[ProteinRecord], index: Mapping[str, int], length: int) -> Examples:
    """The tensors of one split: inputs (N, T) uint8 padded with `<pad>`, targets (N,), lengths (N,).

    Files are sorted by fold. After shuffling, the first k examples are a fair sample.
    """
    for record in records:
        if record.fold not in index:
            raise DataError(
                f"{record.location}: {record.id!r} has fold {record.fold!r}, which does not occur in the train split. "
                f"Expected one of its {len(index)} folds, for example {next(iter(index))!r}."
            )
    if not records:
        raise ConfigError(
            f"remote-homology: a split has no sequence of at most {length} tokens. Increase option length."
        )
    records = [records[row] for row in np.random.default_rng(0).permutation(len(records))]
    rows = [encode(record.sequence, length) for record in records]
    lengths = np.array([len(row) for row in rows])
    inputs = np.full((len(rows), lengths.max()), PAD, np.uint8)
    for row, target in zip(rows, inputs, strict=True):
        target[: len(row)] = np.frombuffer(row, np.uint8)
    targets = torch.tensor([index[record.fold] for record in records])
    return Examples(torch.from_numpy(inputs), targets, torch.from_numpy(lengths))


def _digest(records: list[ProteinRecord], index: Mapping[str, int]) -> str:
    """sha256 over ids, sequences and folds. The formats of the files, which name folds differently, do not matter."""
    lines = [f"{record.id}\t{record.sequence}\t{index.get(record.fold)}\n" for record in records]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _describe(
    form: str,
    files: Mapping[str, Path],
    records: Mapping[str, list[ProteinRecord]],
    index: Mapping[str, int],
    length: int,
) -> dict[str, Any]:
    counts = {split: len(part) for split, part in records.items()}
    data: dict[str, Any] = {
        "format": form,
        "files": {split: f"{path.parent.name}/{path.name}" for split, path in files.items()},
        "counts": counts,
        "longer_than_length": sum(len(r.sequence) + 2 > length for part in records.values() for r in part),
        **{f"{split}_sha256": _digest(part, index) for split, part in records.items()},
    }
    listed = {split: TAPE_COUNTS[split] for split in counts}
    if counts != listed:
        data["share_of_tape"] = round(sum(counts.values()) / sum(listed.values()), 4)
    return data


def build_remote_homology(request: TaskRequest) -> RemoteHomology:
    """The task from TSV, FASTA, TAPE's JSON or TAPE's LMDB files, whichever are found first (see protein_files.py).

    Option `length` (1024) is the longest sequence in tokens, with `<cls>` and `<sep>`; longer sequences are cut. The
    fault "homology-valid" drops them instead, as the published code does (it drops whole batches), and needs no files
    of the hold-outs. Raises ConfigError and DataError.
    """
    length = read_options(request, "remote-homology", HOMOLOGY_OPTIONS)["length"]
    if length < 3:
        raise ConfigError(
            f"option length of remote-homology: expected at least 3 (<cls>, a residue, <sep>), found {length}"
        )
    published = "homology-valid" in request.faults
    splits = ("train", "val") if published else ("train", "val", *HOLD_OUTS)
    form, files = locate(data_roots(request.data_dir), splits)
    records = {split: read(form, path) for split, path in files.items()}
    index = fold_indices(records["train"])
    data = _describe(form, files, records, index, length)
    if published:
        records = {split: [r for r in part if len(r.sequence) + 2 <= length] for split, part in records.items()}
        data["remark"] = f"published protocol: longer sequences dropped, valid accuracy times {PUBLISHED_SCALE}"
    examples = {split: _examples(part, index, length) for split, part in records.items()}
    return RemoteHomology(examples, data, length, published)


REMOTE_HOMOLOGY = TaskEntry(
    RemoteHomology,
    build_remote_homology,
    lambda options: RemoteHomology.spec_of(**options),
    "fold of a protein from its sequence (TAPE)",
    paper_settings(100_000, 2, 1e-4),
    HOMOLOGY_OPTIONS,
    lambda options: min(options["length"], MEAN_RESIDUES),
)
