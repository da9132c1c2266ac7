"""What is predicted: classes or numbers, one or several; splits, loss and metric.

Stored targets (N, 2, k) float32 hold each target's class or standardised value, and the weight that makes
the mean of the per-example metric over a whole split the metric's textbook value.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from icecore.core.errors import ConfigError, DataError
from icecore.core.text import pluralize
from icecore.user_data.records import SPLITS, Column, DataSettings, listed

#: whole numbers of at most so many kinds are taken for classes
FEW = 20
#: the largest class is this many times the smallest: then every class counts the same
IMBALANCE = 3.0
#: rows of a class from which val and test get one each
FEWEST = 3
#: rows held out at most, for each of val and test: more would take long to score, and say little more
MOST_HELD = 10_000


@dataclass(frozen=True)
class TargetEncoder:
    """Names of the k targets, and what training rows say of them.

    classes   labels of each target, in ascending order (classification)
    counts    training rows of each class
    origins   "int", "float", "bool" or "str" of each target's labels
    mean, std of each target's training rows (regression)
    balanced  classes are imbalanced: the metric is balanced accuracy, and the loss adjusts for it
    """

    names: tuple[str, ...]
    task: Literal["classification", "regression"]
    origins: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...] = ()
    counts: tuple[tuple[int, ...], ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    balanced: bool = False

    @property
    def outputs(self) -> int:
        """Numbers the model gives: the classes of all targets, or one a target."""
        return sum(map(len, self.classes)) or len(self.names)

    @property
    def metric_name(self) -> str:
        """What the mean of `metric` over a split is."""
        return "r2" if self.task == "regression" else "balanced accuracy" if self.balanced else "accuracy"

    @classmethod
    def fit(cls, columns: Mapping[str, Column], task: str, train: np.ndarray) -> "TargetEncoder":
        """Classes, or mean and spread, of the training rows. Raises DataError for one class or a constant."""
        names = tuple(columns)
        origins = tuple(column.origin for column in columns.values())
        if task == "regression":
            values = np.stack([column.values[train] for column in columns.values()], 1).astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                mean, std = values.mean(0), values.std(0)
            for name, spread, middle in zip(names, std, mean, strict=True):
                if not np.isfinite(spread):
                    raise DataError(f"target {name!r} has values too large to square; give it in a larger unit")
                if spread <= 1e-12 * abs(middle):
                    raise DataError(f"target {name!r} is {middle:g} in every training row; there is nothing to learn")
            return cls(names, "regression", origins, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
        classes: list[tuple[str, ...]] = []
        counts: list[tuple[int, ...]] = []
        for column in columns.values():
            held = column.labelled()
            levels = held.texts
            times = np.bincount(held.values[train], minlength=len(levels))
            present = np.flatnonzero(times).tolist()
            if held is column:  # texts, in order of appearance; numbers ascend already
                present.sort(key=lambda code: levels[code])
            classes.append(tuple(levels[code] for code in present))
            counts.append(tuple(int(times[code]) for code in present))
            if len(present) < 2:
                raise DataError(
                    f"target {column.name!r} has one class, {classes[-1][0]!r}, in training; expected at least two"
                )
        balanced = any(max(c) > IMBALANCE * min(c) for c in counts)
        origins = tuple(column.labelled().origin for column in columns.values())
        return cls(names, "classification", origins, tuple(classes), tuple(counts), balanced=balanced)

    def encode(self, columns: Mapping[str, Column], rows: np.ndarray, place: str) -> Tensor:
        """Targets (n, 2, k) float32 of the rows of one split. Raises DataError for a class unseen in training."""
        absent = [name for name in self.names if name not in columns]
        if absent:
            raise DataError(f"{place}: has no column {listed(absent)} to score against")
        encode = self._standardised if self.task == "regression" else self._codes
        parts = [encode(number, columns[name], rows, place) for number, name in enumerate(self.names)]
        return torch.from_numpy(np.stack(parts, 2)) if len(rows) else torch.zeros(0, 2, len(self.names))

    def _standardised(self, number: int, column: Column, rows: np.ndarray, place: str) -> np.ndarray:
        if column.type == "text":
            raise DataError(f"{place}: target {column.name!r} is text, expected numbers")
        values = ((column.values[rows] - self.mean[number]) / self.std[number]).astype(np.float32)
        variance = values.var(dtype=np.float64) if len(rows) else 0.0
        return np.stack([values, np.full(len(rows), 1 / variance if variance else 1.0, np.float32)], 1)

    def _codes(self, number: int, column: Column, rows: np.ndarray, place: str) -> np.ndarray:
        held = column.labelled()
        index = {label: code for code, label in enumerate(self.classes[number])}
        codes = np.array([*(index.get(label, -1) for label in held.texts), -1])[held.values[rows]]
        if (codes < 0).any():
            levels = held.texts
            strange = sorted({levels[code] for code in held.values[rows[codes < 0]].tolist()})
            raise DataError(
                f"{place}: {pluralize(int((codes < 0).sum()), 'row')} of classes of {column.name!r} that training rows "
                f"lack: {listed(strange)}; add training rows of them, or remove these"
            )
        weight = np.ones(len(codes), np.float32)
        if self.balanced and len(codes):
            counts = np.bincount(codes, minlength=len(index))
            weight = (len(codes) / ((counts > 0).sum() * counts.clip(1)))[codes].astype(np.float32)
        return np.stack([codes.astype(np.float32), weight], 1)

    def _groups(self, logits: Tensor) -> list[Tensor]:
        """Logits (N, n, C), n = 1, as (N, classes) for each target."""
        return list(logits.flatten(1).float().split([len(labels) for labels in self.classes], 1))

    def chosen(self, logits: Tensor) -> list[Tensor]:
        """Of each target the class (N,) with the largest logit."""
        return [group.argmax(1) for group in self._groups(logits)]

    def prior(self, number: int, device: torch.device) -> Tensor:
        """Log share (classes,) of each class in training where imbalanced, else 0."""
        counts = torch.tensor(self.counts[number], dtype=torch.float32, device=device)
        return (counts / counts.sum()).log() if self.balanced else torch.zeros_like(counts)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Per example (N,): squared error of standardised targets, or cross-entropy, averaged over targets.

        Where classes are imbalanced, the log prior is added to the logits first: then the largest logit is
        the best choice under balanced accuracy (Menon et al. 2021, logit adjustment), and no rare class has
        the large, noisy gradients that class weights would give it.
        """
        values = targets[:, 0]
        if self.task == "regression":
            return (logits.flatten(1).float() - values).square().mean(1)
        parts = [
            F.cross_entropy(group + self.prior(number, group.device), values[:, number].long(), reduction="none")
            for number, group in enumerate(self._groups(logits))
        ]
        return torch.stack(parts).mean(0)

    def metric(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Per example (N,): its part in accuracy, balanced accuracy or R², whose mean over a split is that metric.

        Exact over a whole split; over its first examples an estimate. Averaged over targets.
        """
        values, weights = targets.unbind(1)
        if self.task == "regression":
            return (1 - (logits.flatten(1).float() - values).square() * weights).mean(1)
        hits = torch.stack(self.chosen(logits), 1) == values
        return (hits * weights).mean(1)

    def predict(self, logits: Tensor) -> list[np.ndarray]:
        """One array (N,) a target: labels as they were given (text, whole numbers, ...), or numbers."""
        if self.task == "regression":
            mean, std = (torch.tensor(numbers, dtype=torch.float64) for numbers in (self.mean, self.std))
            return list((logits.flatten(1).double().cpu() * std + mean).numpy().T)
        return [self.labels(number)[codes.cpu().numpy()] for number, codes in enumerate(self.chosen(logits))]

    def probabilities(self, logits: Tensor) -> list[Tensor]:
        """Of each target's classes (N, classes), under the training rows' shares of classes."""
        groups = self._groups(logits)
        return [(group + self.prior(number, group.device)).softmax(1) for number, group in enumerate(groups)]

    def labels(self, number: int = 0) -> np.ndarray:
        """The classes of a target as they were given: an array of texts, whole numbers, floats or truth values."""
        names, origin = self.classes[number], self.origins[number]
        return np.array([_ORIGINAL[origin](name) for name in names])

    def describe(self) -> list[tuple[str, str]]:
        """The plan's lines about the target."""
        lines = [("predicts", f"{', '.join(self.names)} ({self.task})")]
        if self.task == "regression":
            each = zip(self.names, self.mean, self.std, strict=True)
            lines.append(("training", "; ".join(f"{n}: mean {m:.4g}, deviation {s:.4g}" for n, m, s in each)))
        for name, labels, counts in zip(self.names, self.classes, self.counts, strict=False):
            pairs = [f"{label} ({count:,})" for label, count in zip(labels, counts, strict=True)]
            lines.append((f"classes of {name}", f"{len(labels)}: {listed(pairs, 10)}"))
        if self.balanced:
            lines.append(("imbalanced", "every class counts the same, in metric and loss"))
        return [*lines, ("metric", self.metric_name)]


_ORIGINAL = {"str": str, "int": int, "float": float, "bool": lambda name: name == "True"}


def decide(columns: Mapping[str, Column], settings: DataSettings) -> tuple[str, str]:
    """Classification or regression, and why. Raises DataError, ConfigError where neither fits."""
    if settings.task != "auto":
        if settings.task == "regression" and (text := [c for c in columns.values() if c.type == "text"]):
            if doubtful := [f"{c.name}: {c.doubt}" for c in text if c.doubt]:
                raise ConfigError(f"target {listed(doubtful)}; regression needs numbers: mend these cells")
            names = listed([c.name for c in text])
            if zeros := [t for c in text for t in c.texts if len(t) > 1 and t[0] == "0" and t.isdecimal()]:
                names += f" has leading zeros, as in {zeros[0]!r}, and so"
            raise ConfigError(f"target {names} is text; regression needs numbers: --task classification")
        if any(c.type == "text" and c.levels is None for c in columns.values()):
            raise ConfigError("a target has too many different texts for classes; name another --target")
        return settings.task, "as asked"
    found: dict[str, str] = {}
    for name, column in columns.items():
        if column.type == "date":
            raise DataError(f"target {name!r} is a date; expected a number, say days from a fixed one, or classes")
        known = column.values[~column.missing()]
        distinct = len(np.unique(known))
        if column.type == "text" or column.origin == "bool":
            if column.levels is None or (distinct > FEW and distinct > len(known) / 2):
                texts = f"{pluralize(distinct, 'different text')} in {pluralize(len(known), 'row')}"
                remedy = f"{column.doubt}: mend these cells, or name another" if column.doubt else "name another"
                raise DataError(f"target {name!r} has {texts}; {remedy}")
            found[name] = "classification"
        else:
            whole = not (known % 1).any()
            counting = (
                distinct and np.ptp(known) == distinct - 1 and known.min() in (0, 1) and len(known) >= 10 * distinct
            )
            few = whole and (distinct <= min(FEW, len(known) / 2) or counting)
            found[name] = "classification" if few else "regression"
    if len(set(found.values())) > 1:
        kinds = "; ".join(f"{name}: {kind}" for name, kind in found.items())
        raise ConfigError(f"targets of both kinds ({kinds}): fit them apart, or set --task")
    return next(iter(found.values())), "by the target's values (--task names another)"


def split_rows(
    columns: Mapping[str, Column], task: str, given: np.ndarray | None, settings: DataSettings
) -> dict[str, np.ndarray]:
    """Rows of train, val and test, each in random order: splits the data have, the rest drawn from training.

    Drawn rows are stratified by the first target, by class or along its values. Raises ConfigError, DataError.
    """
    first = next(iter(columns.values()))
    key = (first.labelled() if task == "classification" else first).values
    N = len(key)
    generator = np.random.default_rng(settings.seed)
    parts = {name: np.flatnonzero(given == name) if given is not None else np.zeros(0, int) for name in SPLITS}
    pool = parts["train"] if given is not None and (given == "train").any() else np.arange(N)
    if given is not None:
        pool = np.union1d(pool[np.isin(given[pool], ("", "train"))], np.flatnonzero(given == ""))
    if not len(pool):
        raise DataError("the data have no training rows")
    most = MOST_HELD / len(pool)
    shares = [0.0 if len(parts[name]) else min(getattr(settings, name), most) for name in ("val", "test")]
    if not shares[0] and not len(parts["val"]):
        raise ConfigError("val: 0 leaves nothing to choose by; expected more, or data that have a val split")
    drawn = _stratified(key[pool], shares, generator, task == "classification")
    for number, name in enumerate(SPLITS):
        rows = pool[drawn == number]
        parts[name] = rows if number == 0 or len(rows) else parts[name]
        parts[name] = generator.permutation(parts[name])
    for name in ("train", "val"):
        if not len(parts[name]) and task == "classification" and 3 < N == len(np.unique(key)):
            remedy = "" if first.type == "text" else ", or --task regression"
            raise DataError(f"target {first.name!r} has {N:,} classes of one row each; expected several rows{remedy}")
        if not len(parts[name]):
            raise DataError(
                f"{pluralize(N, 'row')}: too few for a {name} split; expected at least 4, classes of several rows, "
                "or a larger share"
            )
    return parts


def _stratified(key: np.ndarray, shares: Sequence[float], generator: np.random.Generator, classes: bool) -> np.ndarray:
    """0, 1 or 2 for each row: train, or held out with these shares, evenly along `key`; no class all held out."""
    N, held = len(key), sum(shares)
    if not held:
        return np.zeros(N, int)
    order = np.lexsort((generator.random(N), key))
    # at random within each run of rows that are alike
    width = int(np.ceil(2 / min(share for share in shares if share)))
    order = order[np.lexsort((generator.random(N), np.arange(N) // width))]
    out = np.zeros(N, int)
    wanted = max(round(N * held), sum(share > 0 for share in shares))
    taken = np.diff(np.arange(N + 1) * wanted // N) > 0
    count = int(taken.sum())
    of_test = round(count * shares[1] / held)
    of_test = min(max(of_test, int(shares[1] > 0)), count - int(shares[0] > 0))
    out[order[taken]] = 1 + (np.diff((np.arange(count + 1) * of_test + count // 2) // count) > 0)
    if classes:
        # a class must be learned before it can be scored
        for orphan in np.setdiff1d(key, key[out == 0]):
            rows = np.flatnonzero(key == orphan)
            out[rows[out[rows].argmax()]] = 0
        _represent(key, out, order, [split for split, share in enumerate(shares, 1) if share])
    return out


def _represent(key: np.ndarray, out: np.ndarray, order: np.ndarray, held: Sequence[int]) -> None:
    """Give each of the `held` splits a row of every class of at least `FEWEST` rows, for the most frequent class's.

    out    (N,) each row's split, changed in place; train has every class
    order  (N,) rows, at random within a class
    """
    codes = np.unique(key, return_inverse=True)[1]
    counts = np.bincount(codes * 3 + out, minlength=3 * (codes.max() + 1)).reshape(-1, 3)
    lacking = (counts.sum(1) >= FEWEST) & (counts[:, held] == 0).any(1)
    # rows that may move, by class and split
    rows: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row in order[(out[order] > 0) | lacking[codes[order]]].tolist():
        rows[int(codes[row]), int(out[row])].append(row)

    def move(code: int, source: int, split: int) -> None:
        row = rows[code, source].pop()
        rows[code, split].append(row)
        out[row] = split
        counts[code, source] -= 1
        counts[code, split] += 1

    for code in np.flatnonzero(lacking).tolist():
        for split in held:
            if not counts[code, split]:
                source = int(counts[code].argmax())
                move(code, source, split)
                # the splits stay as large as they were, where a class can spare a row
                frequent = int(counts[:, split].argmax())
                if counts[frequent, split] > 1:
                    move(frequent, split, source)


def absent_classes(target: TargetEncoder, targets: Tensor) -> list[str]:
    """Classes of which a split's targets (n, 2, k) have no row, after the target's name where there are several."""
    found: list[str] = []
    for number, labels in enumerate(target.classes):
        present = set(targets[:, 0, number].long().tolist())
        start = f"{target.names[number]} " if len(target.names) > 1 else ""
        found += [f"{start}{label}" for code, label in enumerate(labels) if code not in present]
    return found
