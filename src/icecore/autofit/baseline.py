"""A plain baseline of scikit-learn on the flattened input: what one would try without any transformer.

Linear or boosted trees, whichever does better on validation. Needs the extra `sklearn`.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from icecore.core.errors import UserError
from icecore.user_data import UserTask
from icecore.user_data.targets import TargetEncoder

#: training rows and input numbers a row beyond which the baseline would take longer than the transformer
ROWS, NUMBERS = 20_000, 2_048
#: classes beyond which trees, one a class and round, take too long
CLASSES = 50


@dataclass(frozen=True)
class Baseline:
    """The better of the two models: its name, metric on validation, seconds.

    logits   (N, 1, C) of the scored split, and its
    targets  (N, 2, k)
    """

    name: str
    validation: float
    seconds: float
    logits: Tensor
    targets: Tensor


def fit_baseline(task: UserTask, split: str, seed: int = 0) -> Baseline:
    """Fit both models on "train" and score the better one on `split`. Raises UserError without scikit-learn."""
    clock = time.perf_counter()
    x, wanted = flattened(task, "train", ROWS)
    held, targets = flattened(task, "val")
    best: tuple[float, str, Sequence[Any]] | None = None
    for name, make in _models(task.encoder.target, seed).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a baseline that has not converged is still a baseline
            models = [make().fit(x, column) for column in wanted[:, 0].numpy().T]
        validation = float(task.metric(_logits(models, held, task.encoder.target), targets).double().mean())
        if best is None or validation > best[0]:
            best = validation, name, models
    assert best is not None
    validation, name, models = best
    seconds = time.perf_counter() - clock
    x, targets = flattened(task, split)
    return Baseline(name, validation, seconds, _logits(models, x, task.encoder.target), targets)


def flattened(task: UserTask, split: str, limit: int | None = None) -> tuple[NDArray[np.float32], Tensor]:
    """Inputs (N, F) and targets (N, 2, k) of a split: tokens side by side; symbols counted and, if few, one-hot."""
    T, P = task.spec.length, task.spec.size
    rows, wanted = [], []
    for batch in task.batches(split, 1024, limit):
        tokens = batch.tokens.cpu()
        if task.spec.kind == "discrete":
            real = torch.ones_like(tokens) if batch.lengths is None else _real(batch.lengths, tokens.shape[1])
            hot = F.one_hot(tokens, P) * real[..., None]
            parts = [hot.sum(1)]
            if T * P <= NUMBERS:
                parts.append(F.pad(hot, (0, 0, 0, T - tokens.shape[1])).flatten(1))
            flat = torch.cat(parts, 1).float()
        else:
            flat = F.pad(tokens.float(), (0, 0, 0, T - tokens.shape[1])).flatten(1)
            # neighbouring numbers are averaged where there are too many for trees
            groups = -(-flat.shape[1] // NUMBERS)
            flat = F.avg_pool1d(flat[:, None], groups, ceil_mode=True)[:, 0] if groups > 1 else flat
        rows.append(flat.numpy())
        wanted.append(batch.targets.cpu())
    return np.concatenate(rows), torch.cat(wanted)


def _real(lengths: Tensor, width: int) -> Tensor:
    return (torch.arange(width) < lengths[:, None]).long()


def _models(target: TargetEncoder, seed: int) -> Mapping[str, Callable[[], Any]]:
    """How to make each model, by name."""
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise UserError("the baseline needs scikit-learn: pip install 'icecore[sklearn]'") from error
    if target.task == "regression":
        return {
            "ridge regression": lambda: make_pipeline(StandardScaler(), Ridge()),
            "gradient boosting": lambda: HistGradientBoostingRegressor(random_state=seed),
        }
    weight = "balanced" if target.balanced else None
    models: dict[str, Callable[[], Any]] = {
        "logistic regression": lambda: make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=300, class_weight=weight)
        ),
        "gradient boosting": lambda: HistGradientBoostingClassifier(random_state=seed, class_weight=weight),
    }
    if max(map(len, target.classes)) > CLASSES:
        del models["gradient boosting"]
    return models


def _logits(models: Sequence[Any], x: NDArray[np.float32], target: TargetEncoder) -> Tensor:
    """Logits (N, 1, C), as a program would give them, from inputs (N, F)."""
    if target.task == "regression":
        return torch.from_numpy(np.stack([model.predict(x) for model in models], 1)).float()[:, None]
    groups = []
    for model, labels in zip(models, target.classes, strict=True):
        # classes that its training rows lacked keep no chance
        group = torch.full((len(x), len(labels)), -1e9)
        chances = np.log(np.maximum(model.predict_proba(x), 1e-12))
        group[:, torch.from_numpy(model.classes_.astype(np.int64))] = torch.from_numpy(chances).float()
        groups.append(group)
    return torch.cat(groups, 1)[:, None]
