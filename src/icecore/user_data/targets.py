"""What a program predicts, one or several targets: between values as people write them and numbers of the model.

Encoded targets (N, 2, k) float32 hold each target's class index or standardised value, and a weight. The weight
makes the mean of the metric per example over a whole split equal to the textbook metric.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from icecore.core.errors import DataError
from icecore.core.text import join_names, pluralize
from icecore.user_data.cell_types import are_truth_values, truth_word
from icecore.user_data.columns import Column
from icecore.user_data.notes import Note

#: ratio of the rows of the largest class to those of the smallest from which on classes count as imbalanced
IMBALANCE_RATIO = 3.0
_FROM_LABEL = {"str": str, "int": int, "float": float, "bool": lambda label: label == "True"}


def weighted_targets(targets: Tensor, weights: np.ndarray) -> Tensor:
    """Encoded targets (n, 2, k) with the weights (n,) of rows in the metric, and as a third entry for the loss."""
    if not len(targets):
        return torch.zeros(0, 3, targets.shape[2])
    relative = torch.from_numpy(weights / weights.mean()).float()[:, None].expand(-1, targets.shape[2])
    return torch.stack([targets[:, 0], targets[:, 1] * relative, relative], 1)


@dataclass(frozen=True)
class TargetEncoder:
    """The k targets and what was learned about them from the training rows.

    origins    "int", "float", "bool" or "str": type of each target's values in the data
    classes    labels of each target's classes, in ascending order (classification)
    counts     training rows of each class
    mean, std  of each target's training rows (regression)
    balanced   classes are imbalanced: the metric is balanced accuracy, and the loss adjusts for it
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
        """Number of model outputs: the classes of all targets, or one output for each number."""
        return sum(map(len, self.classes)) or len(self.names)

    @property
    def metric_name(self) -> str:
        """Name of the mean of `metric` over a split."""
        return "r2" if self.task == "regression" else "balanced accuracy" if self.balanced else "accuracy"

    @classmethod
    def fit(cls, columns: Mapping[str, Column], task: str, train: np.ndarray, balance: bool = True) -> "TargetEncoder":
        """Find the classes, or mean and standard deviation, of the training rows.

        balance  imbalanced classes count the same in the metric and the loss

        Raises DataError for a target with a single class, a constant value, or values too large to square.
        """
        if task == "regression":
            return cls._fit_numbers(columns, train)
        classes: list[tuple[str, ...]] = []
        counts: list[tuple[int, ...]] = []
        for column in columns.values():
            labels = column.as_labels()
            levels = labels.distinct_texts
            rows_of_class = np.bincount(labels.values[train], minlength=len(levels))
            present = np.flatnonzero(rows_of_class).tolist()
            if labels is column:  # texts are in order of appearance; numbers are sorted already
                present.sort(key=lambda code: levels[code])
            classes.append(tuple(levels[code] for code in present))
            counts.append(tuple(int(rows_of_class[code]) for code in present))
            if len(present) < 2:
                raise DataError(
                    f"Target {column.name!r} has only the class {classes[-1][0]!r} in the training rows. "
                    "Provide rows of at least two classes."
                )
        balanced = balance and any(max(c) > IMBALANCE_RATIO * min(c) for c in counts)
        origins = tuple(column.as_labels().origin for column in columns.values())
        return cls(tuple(columns), "classification", origins, tuple(classes), tuple(counts), balanced=balanced)

    @classmethod
    def _fit_numbers(cls, columns: Mapping[str, Column], train: np.ndarray) -> "TargetEncoder":
        names, origins = tuple(columns), tuple(column.origin for column in columns.values())
        values = np.stack([column.values[train] for column in columns.values()], 1).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            means, stds = values.mean(0), values.std(0)
        for name, mean, std in zip(names, means, stds, strict=True):
            if not np.isfinite(std):
                raise DataError(f"Target {name!r} has values that are too large to square. Use a larger unit.")
            if std <= 1e-12 * abs(mean):
                raise DataError(f"Target {name!r} is {mean:g} in every training row, so there is nothing to learn.")
        return cls(names, "regression", origins, mean=tuple(means.tolist()), std=tuple(stds.tolist()))

    def encode(self, columns: Mapping[str, Column], rows: np.ndarray, source: str) -> Tensor:
        """Encode the targets of the `rows` (n,) of one split as (n, 2, k) float32.

        `source` names the data in messages. Raises DataError for a missing column, text in place of numbers, or a
        class without training rows.
        """
        if absent := [name for name in self.names if name not in columns]:
            raise DataError(f"{source}: there is no target column {join_names(absent)} to score the predictions with.")
        encode = self._standardise if self.task == "regression" else self._class_indices
        parts = [encode(number, columns[name], rows, source) for number, name in enumerate(self.names)]
        return torch.from_numpy(np.stack(parts, 2)) if len(rows) else torch.zeros(0, 2, len(self.names))

    def _standardise(self, number: int, column: Column, rows: np.ndarray, source: str) -> np.ndarray:
        if column.type == "text":
            raise DataError(f"{source}: target {column.name!r} must hold numbers, but holds text.")
        values = ((column.values[rows] - self.mean[number]) / self.std[number]).astype(np.float32)
        variance = values.var(dtype=np.float64) if len(rows) else 0.0
        return np.stack([values, np.full(len(rows), 1 / variance if variance else 1.0, np.float32)], 1)

    def _class_indices(self, number: int, column: Column, rows: np.ndarray, source: str) -> np.ndarray:
        labels = column.as_labels()
        index = {label: code for code, label in enumerate(self.classes[number])}
        known = [index.get(label, -1) for label in labels.distinct_texts]
        if are_truth_values(self.classes[number]):  # TRUE, True and 1 are one class
            index = {truth_word(label): code for label, code in index.items()}
            known = [index.get(truth_word(label), -1) for label in labels.distinct_texts]
        codes = np.array([*known, -1])[labels.values[rows]]
        if (codes < 0).any():
            levels = labels.distinct_texts
            unknown = sorted({levels[code] for code in labels.values[rows[codes < 0]].tolist()})
            raise DataError(
                f"{source}: {pluralize(int((codes < 0).sum()), 'row')} of target {column.name!r} with classes that no "
                f"training row has: {join_names(unknown)}. Add training rows of these classes, or remove these rows."
            )
        weight = np.ones(len(codes), np.float32)
        if self.balanced and len(codes):
            counts = np.bincount(codes, minlength=len(index))
            weight = (len(codes) / ((counts > 0).sum() * counts.clip(1)))[codes].astype(np.float32)
        return np.stack([codes.astype(np.float32), weight], 1)

    def absent_classes(self, targets: Tensor) -> list[str]:
        """Classes that no row of a split's targets (n, 2, k) has, with the target's name if there are several."""
        absent: list[str] = []
        for number, labels in enumerate(self.classes):
            present = set(targets[:, 0, number].long().tolist())
            prefix = f"{self.names[number]} " if len(self.names) > 1 else ""
            absent += [f"{prefix}{label}" for code, label in enumerate(labels) if code not in present]
        return absent

    def _split_logits(self, logits: Tensor) -> list[Tensor]:
        """Logits (N, 1, C) as (N, classes) for each target."""
        return list(logits.flatten(1).float().split([len(labels) for labels in self.classes], 1))

    def class_indices(self, logits: Tensor) -> list[Tensor]:
        """Of each target the class index (N,) with the largest logit."""
        return [group.argmax(1) for group in self._split_logits(logits)]

    def log_prior(self, number: int, device: torch.device) -> Tensor:
        """Log share (classes,) of each class in the training rows if classes are imbalanced, otherwise 0."""
        counts = torch.tensor(self.counts[number], dtype=torch.float32, device=device)
        return (counts / counts.sum()).log() if self.balanced else torch.zeros_like(counts)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss (N,) of logits (N, 1, C): squared error of standardised values, or cross-entropy; mean over targets.

        If classes are imbalanced, the log prior is added to the logits first (logit adjustment, Menon et al. 2021):
        then the largest logit is the best choice under balanced accuracy, without the large and noisy gradients that
        class weights would give rare classes.
        """
        values = targets[:, 0]
        weights = targets[:, 2, 0] if targets.shape[1] > 2 else 1.0
        if self.task == "regression":
            return (logits.flatten(1).float() - values).square().mean(1) * weights
        parts = [
            F.cross_entropy(group + self.log_prior(number, group.device), values[:, number].long(), reduction="none")
            for number, group in enumerate(self._split_logits(logits))
        ]
        return torch.stack(parts).mean(0) * weights

    def metric(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Contribution (N,) of each example to accuracy, balanced accuracy or R²; mean over targets.

        logits (N, 1, C), targets (N, 2, k). The mean over a whole split is that metric; over a part of it, an estimate.
        """
        values, weights = targets[:, 0], targets[:, 1]
        if self.task == "regression":
            return (1 - (logits.flatten(1).float() - values).square() * weights).mean(1)
        hits = torch.stack(self.class_indices(logits), 1) == values
        return (hits * weights).mean(1)

    def linear_targets(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What a linear output layer is solved for: values (N, 1, C) in float64 and weights (N,), from (N, 2, k).

        If classes are imbalanced, the rows of each class of a target have the same weight together.
        """
        values = targets[:, 0].double()
        weights = torch.ones(len(values), dtype=torch.float64, device=values.device)
        if self.task == "regression":
            return values[:, None], weights
        codes = [(column.long(), len(labels)) for column, labels in zip(values.T, self.classes, strict=True)]
        if self.balanced:
            shares = [torch.bincount(code, minlength=size).clamp(min=1)[code] * size for code, size in codes]
            weights = torch.stack([len(values) / share.double() for share in shares]).mean(0)
        return torch.cat([F.one_hot(code, size) for code, size in codes], 1).double()[:, None], weights

    def predict(self, logits: Tensor) -> list[np.ndarray]:
        """Predictions (N,) of each target from logits (N, 1, C): numbers, or labels of the same type as in the data."""
        if self.task == "regression":
            mean, std = (torch.tensor(numbers, dtype=torch.float64) for numbers in (self.mean, self.std))
            return list((logits.flatten(1).double().cpu() * std + mean).numpy().T)
        return [self.labels(number)[codes.cpu().numpy()] for number, codes in enumerate(self.class_indices(logits))]

    def probabilities(self, logits: Tensor) -> list[Tensor]:
        """Probabilities (N, classes) of each target's classes, given the class shares of the training rows."""
        groups = self._split_logits(logits)
        return [(group + self.log_prior(number, group.device)).softmax(1) for number, group in enumerate(groups)]

    def labels(self, number: int = 0) -> np.ndarray:
        """Labels (classes,) of a target with the type they had in the data: texts, integers, floats or booleans."""
        from_label = _FROM_LABEL[self.origins[number]]
        return np.array([from_label(label) for label in self.classes[number]])

    def describe_choice(self) -> list[Note]:
        """A note of which class is chosen if that is not always the most probable one."""
        if not self.balanced:
            return []
        parts: list[str] = []
        for name, labels, counts in zip(self.names, self.classes, self.counts, strict=True):
            rarest = min(range(len(labels)), key=lambda code: counts[code])
            share = counts[rarest] / sum(counts)
            if len(labels) == 2:
                parts.append(f"{name} is {labels[rarest]} from a probability of {share:.2g} on, its share in training")
            else:
                parts.append(f"{name} is the class whose probability is highest relative to its share in training")
        reason = "because the classes are imbalanced and every class counts the same"
        return [("threshold", f"{join_names(parts)}, {reason}")]

    def describe(self) -> list[Note]:
        """The lines of the plan about the targets."""
        lines = [("predicts", f"{join_names(self.names)} ({self.task})")]
        if self.task == "regression":
            each = zip(self.names, self.mean, self.std, strict=True)
            texts = [f"{name}: mean {mean:.4g}, standard deviation {std:.4g}" for name, mean, std in each]
            lines.append(
                ("training", "; ".join(texts[:5]) + (f"; and {len(texts) - 5} more" if len(texts) > 5 else ""))
            )
        for name, labels, counts in zip(self.names, self.classes, self.counts, strict=False):
            pairs = [f"{label} ({count:,})" for label, count in zip(labels, counts, strict=True)]
            topic = "classes" if len(self.names) == 1 else f"classes of {name}"
            lines.append((topic, f"{len(labels)} (training rows of each): {join_names(pairs, 10)}"))
        if self.balanced:
            lines.append(("imbalanced", "every class counts the same in the metric and the loss"))
        return [*lines, ("metric", self.metric_name)]
