"""A simple baseline on flattened inputs: what one would try without a transformer.

It is a linear model, a random forest or boosted trees of scikit-learn, or MiniRocket for series, whichever is best on
validation. Needs the extra `sklearn`, and for MiniRocket `timeseries`.
"""

import importlib.util
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

from icecore.core.extras import require_packages
from icecore.core.text import reason
from icecore.tasks.task import Batch, TaskSpec
from icecore.user_data import UserTask
from icecore.user_data.encoders.sequence_encoder import SequenceEncoder
from icecore.user_data.targets import TargetEncoder

#: what the baseline needs, as arguments of `require_packages`
BASELINE_NEEDS = ("The baseline", "sklearn", "sklearn")
#: limits of training rows and of numbers in a row, so that the baseline does not take longer than the transformer
MAX_TRAINING_ROWS, MAX_FEATURES = 20_000, 2_048
#: on more numbers, a forest takes longer than boosting and is rarely better
MAX_FOREST_NUMBERS = 2_000_000
#: with more classes, boosting takes too long, because it grows a tree for each class in each round
MAX_BOOSTED_CLASSES = 50
#: MiniRocket's kernels have 9 points
MIN_ROCKET_POINTS = 9


@dataclass(frozen=True)
class Baseline:
    """The best one of the models.

    val_metric  its metric on the validation split
    seconds     time to fit all models
    logits      (N, 1, C) for the rows of the scored split
    targets     (N, 2, k) of these rows, for k target columns
    """

    name: str
    val_metric: float
    seconds: float
    logits: Tensor
    targets: Tensor


def fit_baseline(task: UserTask, split: str, seed: int = 0) -> Baseline:
    """Fit the models to the training rows and predict `split` with the best one.

    Raises UserError without scikit-learn.
    """
    require_packages(*BASELINE_NEEDS)
    start = time.perf_counter()
    x, targets = flatten_rows(task, "train", MAX_TRAINING_ROWS)
    x_val, val_targets = flatten_rows(task, "val")
    best: tuple[float, str, Callable[[], Any]] | None = None
    builders = _model_builders(task.encoder.target, seed, with_forest=x.size <= MAX_FOREST_NUMBERS)
    for name, build in {**builders, **_series_builders(task, seed)}.items():
        models = _fit_models(build, x, targets)
        val_logits = _predict_logits(models, x_val, task.encoder.target)
        val_metric = float(task.metric(val_logits, val_targets).double().mean())
        if best is None or val_metric > best[0]:
            best = val_metric, name, build
    assert best is not None
    val_metric, name, build = best
    if split != "val":  # the validation rows have done their work, and the start of a fit learns from them too
        x, targets = np.concatenate([x, x_val]), torch.cat([targets, val_targets])
    models = _fit_models(build, x, targets)
    seconds = time.perf_counter() - start
    x, targets = flatten_rows(task, split)
    return Baseline(name, val_metric, seconds, _predict_logits(models, x, task.encoder.target), targets)


def _fit_models(build: Callable[[], Any], x: NDArray[np.float32], targets: Tensor) -> list[Any]:
    """One model for each target, fitted to inputs (N, F) and targets (N, 2, k)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a baseline that has not converged is still a baseline
        return [build().fit(x, column) for column in targets[:, 0].numpy().T]


def flatten_rows(task: UserTask, split: str, limit: int | None = None) -> tuple[NDArray[np.float32], Tensor]:
    """Inputs (N, F) and targets (N, 2, k) of a split, at most `limit` rows.

    Continuous tokens are put side by side. Symbols are counted; if they are few, their one-hot codes follow.
    """
    inputs, targets = [], []
    for batch in task.batches(split, 1024, limit):
        flatten = _flatten_symbols if task.spec.kind == "discrete" else _flatten_numbers
        inputs.append(flatten(batch, task.spec).numpy())
        targets.append(batch.targets.cpu())
    return np.concatenate(inputs), torch.cat(targets)


def _flatten_symbols(batch: Batch, spec: TaskSpec) -> Tensor:
    """Symbols (B, T) as counts (B, V), followed by one-hot codes (B, T * V) if these are few enough."""
    T, V = spec.length, spec.size
    tokens = batch.tokens.cpu()
    one_hot = F.one_hot(tokens, V)  # (B, longest, V)
    if batch.lengths is not None:
        is_real = torch.arange(tokens.shape[1]) < batch.lengths[:, None]
        one_hot = one_hot * is_real[..., None]
    parts = [one_hot.sum(1)]
    if T * V <= MAX_FEATURES:
        parts.append(F.pad(one_hot, (0, 0, 0, T - tokens.shape[1])).flatten(1))
    return torch.cat(parts, 1).float()


def _flatten_numbers(batch: Batch, spec: TaskSpec) -> Tensor:
    """Tokens (B, T, P) as (B, T * P); neighbouring numbers are averaged if there are too many for trees."""
    tokens = batch.tokens.cpu().float()
    flat = F.pad(tokens, (0, 0, 0, spec.length - tokens.shape[1])).flatten(1)
    width = -(-flat.shape[1] // MAX_FEATURES)
    return F.avg_pool1d(flat[:, None], width, ceil_mode=True)[:, 0] if width > 1 else flat


def _model_builders(target: TargetEncoder, seed: int, with_forest: bool) -> Mapping[str, Callable[[], Any]]:
    """A function that builds each model, by the name of the model."""
    from sklearn.ensemble import (
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
        RandomForestClassifier,
        RandomForestRegressor,
    )
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if target.task == "regression":
        regressors: dict[str, Callable[[], Any]] = {
            "ridge regression": lambda: make_pipeline(StandardScaler(), Ridge()),
            "random forest": lambda: RandomForestRegressor(random_state=seed, max_features=1 / 3),
            "gradient boosting": lambda: HistGradientBoostingRegressor(random_state=seed),
        }
        return {name: build for name, build in regressors.items() if with_forest or name != "random forest"}
    weight = "balanced" if target.balanced else None
    models: dict[str, Callable[[], Any]] = {
        "logistic regression": lambda: make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=300, class_weight=weight)
        ),
        "random forest": lambda: RandomForestClassifier(random_state=seed, class_weight=weight),
        "gradient boosting": lambda: HistGradientBoostingClassifier(random_state=seed, class_weight=weight),
    }
    if max(map(len, target.classes)) > MAX_BOOSTED_CLASSES:
        del models["gradient boosting"]
    if not with_forest:
        del models["random forest"]
    return models


def _series_builders(task: UserTask, seed: int) -> Mapping[str, Callable[[], Any]]:
    """MiniRocket (Dempster et al. 2021) for series that are long enough, if aeon is installed."""
    inputs = task.encoder.inputs
    if not isinstance(inputs, SequenceEncoder) or importlib.util.find_spec("aeon") is None:
        return {}
    T, P = inputs.length, inputs.token_size
    points = T * inputs.patch
    if points < MIN_ROCKET_POINTS or T * P > MAX_FEATURES:
        return {}
    try:
        aeon = importlib.import_module("aeon.transformations.collection.convolution_based")
    except ImportError as error:  # it was installed without the packages that it needs
        warnings.warn(
            f"MiniRocket is not among the baselines, because aeon cannot be imported ({reason(error)}). Install it "
            "with the packages that it needs: pip install 'icecore[timeseries]'",
            stacklevel=2,
        )
        return {}
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    def to_series(x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Tokens side by side (N, T * P) as series (N, V, points)."""
        return np.ascontiguousarray(x.reshape(len(x), points, -1).swapaxes(1, 2))

    def build() -> Any:
        is_regression = task.encoder.target.task == "regression"
        weight = "balanced" if task.encoder.target.balanced else None
        last = (
            RidgeCV(np.logspace(-3, 3, 7)) if is_regression else LogisticRegression(max_iter=300, class_weight=weight)
        )
        features = aeon.MiniRocket(random_state=seed)
        return make_pipeline(FunctionTransformer(to_series), features, StandardScaler(with_mean=False), last)

    return {"MiniRocket": build}


def _predict_logits(models: Sequence[Any], x: NDArray[np.float32], target: TargetEncoder) -> Tensor:
    """Logits (N, 1, C) in the form that a program gives them, from inputs (N, F) and one model for each target."""
    if target.task == "regression":
        return torch.from_numpy(np.stack([model.predict(x) for model in models], 1)).float()[:, None]
    groups = []
    for model, labels in zip(models, target.classes, strict=True):
        # classes without training rows are never predicted
        logits = torch.full((len(x), len(labels)), -1e9)
        log_probabilities = np.log(np.maximum(model.predict_proba(x), 1e-12))
        logits[:, torch.from_numpy(model.classes_.astype(np.int64))] = torch.from_numpy(log_probabilities).float()
        groups.append(logits)
    return torch.cat(groups, 1)[:, None]
