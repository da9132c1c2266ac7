"""scikit-learn estimators: programs that are fitted to arrays, in pipelines and searches like any other model.

An estimator holds its program but not the body, which is loaded at the first prediction and shared by all estimators
of a process. So pickles are small, and a search over hundreds of candidates loads a body once.
"""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icecore import user_data
from icecore.autofit import fit as fitting
from icecore.autofit.fit_settings import FitSettings
from icecore.autofit.predict import ROWS_PER_PASS, read_encoder
from icecore.backbones import BodyRequest, build_backbone
from icecore.core.device import select_runtime
from icecore.core.errors import DataError, UserError, unknown_name
from icecore.core.settings import from_values
from icecore.inference.engine import Engine
from icecore.model.program import Program
from icecore.training.callbacks import Callback
from icecore.training.progress import LineDisplay
from icecore.user_data.cell_types import MISSING_CLASS_WORDS
from icecore.user_data.columns import column_from_values
from icecore.user_data.data_settings import DataSettings, TaskKind
from icecore.user_data.readers.frames import frame_columns

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_array, check_consistent_length, check_random_state
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("icecore.autofit.estimators needs scikit-learn: pip install 'icecore[sklearn]'") from error

INPUT_KINDS = ("auto", "array", "series", "images")
#: number of rows below which none can be used for validation
MIN_TRAINING_ROWS = 4
#: mean of a target, in standard deviations, beyond which float32 would round predictions noticeably
MAX_FLOAT32_OFFSET = 1e3
#: number of bodies that are kept for prediction; each takes as much memory as its weights
CACHED_BODIES = 2


class InputError(DataError, ValueError):
    """Data that an estimator cannot use; a ValueError, because scikit-learn expects one."""


class _FPTEstimator(BaseEstimator):
    """The part that both estimators share; see `FPTClassifier` for the parameters."""

    _task: TaskKind
    n_features_in_: int
    feature_names_in_: NDArray[Any]

    def __init__(
        self,
        *,
        backbone: str = FitSettings.backbone,
        weights: str = FitSettings.weights,
        layers: int | None = FitSettings.layers,
        lrs: float | Sequence[float] = FitSettings.lrs,
        race: bool = FitSettings.race,
        minutes: float = 1.0,
        steps: int | None = FitSettings.steps,
        closed_form: bool = FitSettings.closed_form,
        batch_size: int = FitSettings.batch_size,
        start: str | None = FitSettings.start,
        validation_fraction: float = 0.15,
        patch: int | None = None,
        kind: str = "auto",
        precision: str = FitSettings.precision,
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.layers = layers
        self.lrs = lrs
        self.race = race
        self.minutes = minutes
        self.steps = steps
        self.closed_form = closed_form
        self.batch_size = batch_size
        self.start = start
        self.validation_fraction = validation_fraction
        self.patch = patch
        self.kind = kind
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = True
        # without `steps`, the number of steps depends on the speed of the machine
        tags.non_deterministic = self.steps is None
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train a program on rows X and targets y. Some rows are not trained on, but used to choose the program.

        X  (N, columns) numbers, nan if missing; a data frame with numbers, texts, categories, dates and truth values;
           (N, T, V) or a list of N arrays (T,) or (T, V); images (N, H, W, C); or N texts
        y  (N,), and for regression also (N, targets)
        sample_weight  (N,) weight of each row in the loss and on the validation rows; rows of weight 0 are left out

        Raises ValueError if nothing can be learned from the data, and UserError for wrong settings and weights.
        """
        X, y = self._check_training(X, y)
        weights = self._check_weights(X, y, sample_weight)
        if weights is not None and not weights.all():
            X, y, weights = _select(X, weights > 0), y[weights > 0], weights[weights > 0]
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with _value_errors():
            if self.kind not in INPUT_KINDS:
                raise unknown_name("kind", self.kind, INPUT_KINDS)
            data_settings = DataSettings(
                task=self._task,
                kind="images" if self.kind == "images" else "auto",
                patch=self.patch,
                val=self.validation_fraction,
                test=0.0,
                seed=seed,
            )
            balance = getattr(self, "class_weight", None) is None
            plan = user_data.from_arrays(X, y, data_settings, weights=weights, balance=balance)
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(FitSettings) if hasattr(self, f.name)}
        options |= {"lrs": tuple(np.atleast_1d(np.asarray(self.lrs, float)).tolist()), "seeds": (seed,)}
        features: dict[str, Any] = {"n_features_in": getattr(self, "n_features_in_", None)}
        if hasattr(self, "feature_names_in_"):
            features["feature_names_in"] = self.feature_names_in_.tolist()
        extra = {"encoder": plan.encoder.to_json(), "estimator": features}
        callbacks: list[Callback] = [LineDisplay()] if self.verbose else []
        with tempfile.TemporaryDirectory(prefix="icecore-") as folder:
            out = Path(folder) / "program.safetensors"
            result = fitting.fit(plan.task(), from_values(FitSettings, options), out, extra, self.device, callbacks)
        self._set_fitted(result.program, plan.encoder)
        return self

    def save(self, path: str | PathLike[str]) -> None:
        """Write the program to a file, for `load`, `icecore predict` and `icecore push`. Raises StorageError."""
        check_is_fitted(self)
        self.program_.save(Path(path).expanduser())

    @classmethod
    def load(cls, path: str | PathLike[str], device: str = "auto") -> Self:
        """Load a fitted estimator from a program file, which `save` or `icecore fit` wrote. Raises DataError."""
        path = Path(path).expanduser()
        program = Program.load(path)
        encoder = read_encoder(program, path)
        if encoder.settings.task != cls._task:
            raise DataError(f"{path} is a program for {encoder.settings.task}, but {cls.__name__} is for {cls._task}.")
        config, features = program.config, program.extra.get("estimator", {})
        estimator = cls(
            backbone=config.backbone,
            weights=config.weights,
            layers=config.layers,
            lrs=(config.lr,),
            steps=config.steps,
            closed_form=config.output_start is not None,
            batch_size=config.batch_size,
            start=config.start,
            validation_fraction=encoder.settings.val,
            patch=encoder.settings.patch,
            precision=config.precision,
            device=device,
            random_state=config.seed,
        )
        if features.get("n_features_in") is not None:
            estimator.n_features_in_ = features["n_features_in"]
        if "feature_names_in" in features:
            estimator.feature_names_in_ = np.array(features["feature_names_in"], object)
        estimator._set_fitted(program, encoder)
        return estimator

    def _set_fitted(self, program: Program, encoder: user_data.DataEncoder) -> None:
        """Set the fitted attributes."""
        self.program_, self.encoder_ = program, encoder
        self.result_ = dict(program.extra["result"])
        self.n_iter_ = int(self.result_["steps"])

    def _check_training(self, X: Any, y: Any) -> tuple[Any, NDArray[Any]]:
        """Check training data. Returns X in a form that `user_data.from_arrays` reads, and y with as many rows."""
        numeric = self._task == "regression"
        target_rules: dict[str, Any] = {"multi_output": numeric, "y_numeric": numeric}
        with _value_errors():
            y = y if numeric else _known_labels(y)
            columns = frame_columns(X)
        if columns is not None or _is_image_array(X, self.kind) or _is_object_table(X):
            y = validate_data(self, y=y, **target_rules)
            if columns is not None and not _is_mapping(X):
                validate_data(self, X, skip_check_array=True)
                if not hasattr(self, "feature_names_in_"):
                    columns = _numbered(columns)
            else:
                self.__dict__.pop("feature_names_in_", None)
                self.n_features_in_ = len(columns) if columns is not None else int(np.shape(X)[1])
            check_consistent_length(next(iter(columns.values())) if columns else X, y)
            return (columns if columns is not None else X), y
        if self.kind != "series" and not _is_list(X) and _dimensions(X) != 3:
            rules: dict[str, Any] = {"ensure_all_finite": "allow-nan", "ensure_min_samples": MIN_TRAINING_ROWS}
            checked: Any = validate_data(self, X, y, **rules, **target_rules)
            return checked
        y = validate_data(self, y=y, **target_rules)
        self.__dict__.pop("n_features_in_", None)
        if not _is_texts(X):
            X = self._check_sequences(X)
            # V, which is the same for every point of every row
            self.n_features_in_ = int(X[0].shape[1])
        check_consistent_length(X, y)
        return X, y

    def _check_new(self, X: Any) -> Any:
        """Check new rows. Returns X in a form that `user_data.encode` reads, the form of the training rows."""
        form = self.encoder_.form
        with _value_errors():
            columns = frame_columns(X)
        names = getattr(self, "feature_names_in_", None)
        if columns is not None:
            if names is not None and not _is_mapping(X):
                validate_data(self, X, reset=False, skip_check_array=True)
            # a model that was fitted to an array knows its columns by number only
            is_numbered = form == "table" and names is None and hasattr(self, "n_features_in_")
            if not is_numbered or "x0" in columns:
                return columns
            if not _is_mapping(X):
                validate_data(self, X, reset=False, skip_check_array=True)
                return _numbered(columns)
        if form == "images" or _is_object_table(X):
            return X
        if form == "table" and names is not None:
            # the columns of an array have the names of the training columns, after scikit-learn's warning
            X = validate_data(self, X, reset=False, ensure_all_finite="allow-nan")
            return {str(name): X[:, i] for i, name in enumerate(names)}
        if form == "table":
            return validate_data(self, X, reset=False, ensure_all_finite="allow-nan")
        return self._check_sequences(X) if form == "sequences" else X

    def _check_weights(self, X: Any, y: NDArray[Any], sample_weight: Any) -> NDArray[np.float64] | None:
        """The weight (N,) of each row, with those of its class; None if all are equal. Raises ValueError."""
        class_weight = getattr(self, "class_weight", None)
        if sample_weight is None and class_weight is None:
            return None
        weights = _check_sample_weight(sample_weight, np.zeros((len(y), 1)), dtype=np.float64, ensure_non_negative=True)
        if class_weight is not None:
            weights = weights * compute_sample_weight(class_weight, y)
        if not weights.any():
            raise InputError("All sample weights are zero, so there is nothing to learn. Give some rows a weight.")
        return weights

    def _check_sequences(self, X: Any) -> Any:
        """Rows (T,) or (T, V) as one array (N, T, V), or as a list of arrays (T, V) if their lengths are unequal."""
        rules: dict[str, Any] = {"ensure_all_finite": "allow-nan", "allow_nd": True, "estimator": self}
        if _is_list(X):
            return [check_array(row if np.ndim(row) > 1 else np.reshape(row, (-1, 1)), **rules) for row in X]
        X = check_array(X, **rules)
        return X[..., None] if X.ndim == 2 else X

    def _predict_logits(self, X: Any) -> Tensor:
        """Logits (N, 1, C) of new rows, on the CPU."""
        check_is_fitted(self)
        X = self._check_new(X)
        with _value_errors():
            task = user_data.encode(self.encoder_, X).task(self.encoder_)
        config = self.program_.config
        engine = _load_engine(*config.body, config.precision, self.device, self.program_.fingerprint)
        # loaded but not added: the engine belongs to all estimators on this body, in any thread
        program = engine.load(self.program_, "estimator")
        logits = [torch.stack(engine.predict(batch, program)) for batch in task.batches("test", ROWS_PER_PASS)]
        return torch.cat(logits).cpu()


class FPTClassifier(ClassifierMixin, _FPTEstimator):
    """A classifier that trains a small program on a frozen pretrained transformer.

    >>> FPTClassifier(minutes=5).fit(X, y).predict_proba(X_new)  # doctest: +SKIP

    `predict` returns the class with the highest probability. Probabilities assume that classes are as frequent as in
    the training rows. If classes are imbalanced, `icecore predict` with the saved program chooses rare classes more
    often than `predict`, because it aims at balanced accuracy.

    Parameters:
        backbone: name of the body, a folder or a hub name (`icecore backbones` lists the names)
        weights: "pretrained", "random", "statistics" or the path of a weights file
        layers: number of layers of the body to use, counted from the input; None: all
        lrs: learning rates, which are trained together; validation chooses one of them
        race: stop learning rates that are behind on validation early, so that the others train longer
        minutes: approximate time of `fit`, which stops earlier if the validation metric no longer improves
        steps: training steps of each run; None: as many as fit into the minutes. With a number, the same
            `random_state` gives the same program
        closed_form: start from an output layer in closed form, and keep it unless training is clearly better
        batch_size: rows in each step, for each learning rate
        start: path of a program to start from: its norms, its positions and, if tokens are alike, its input layer
        validation_fraction: share of the rows that is used to choose the learning rate and when to stop
        patch: number of columns, or of points of a sequence, in one token; None: so many that tokens are few enough
        kind: "series": the columns of 2-D rows are points in time; "images": 3-D arrays are grey images (N, H, W);
            "auto" and "array": columns of a table, and series (N, T, V)
        class_weight: weight of each class in the loss and on the validation rows: a mapping, or "balanced"; None: if
            classes are imbalanced, the metric that chooses the program is balanced accuracy
        precision: precision of the frozen products: "auto", "fast", "fp32", "bf16" or "int8"
        device: "auto", "cpu", "cuda" or "mps"
        random_state: seed of the validation rows, the start and the order of training; int, RandomState or None
        verbose: 1 prints a line at each validation

    Attributes:
        classes_: (C,) the classes in ascending order
        program_: the trained `icecore.Program`
        encoder_: the encoder that turns rows into tokens
        result_: what was reached on the validation rows: "metric", "lr", "steps" and more
        n_iter_: the step after which the program was best on the validation rows
        n_features_in_: number of columns of a table, or of values in each point of a sequence; not set for texts
        feature_names_in_: names of the columns of a table, if they have names
    """

    _task = "classification"

    def __init__(
        self,
        *,
        backbone: str = FitSettings.backbone,
        weights: str = FitSettings.weights,
        layers: int | None = FitSettings.layers,
        lrs: float | Sequence[float] = FitSettings.lrs,
        race: bool = FitSettings.race,
        minutes: float = 1.0,
        steps: int | None = FitSettings.steps,
        closed_form: bool = FitSettings.closed_form,
        batch_size: int = FitSettings.batch_size,
        start: str | None = FitSettings.start,
        validation_fraction: float = 0.15,
        patch: int | None = None,
        kind: str = "auto",
        class_weight: Mapping[Any, float] | str | None = None,
        precision: str = FitSettings.precision,
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            backbone=backbone,
            weights=weights,
            layers=layers,
            lrs=lrs,
            race=race,
            minutes=minutes,
            steps=steps,
            closed_form=closed_form,
            batch_size=batch_size,
            start=start,
            validation_fraction=validation_fraction,
            patch=patch,
            kind=kind,
            precision=precision,
            device=device,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class of each row (N,)."""
        # this raises NotFittedError before `classes_` is used
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Probabilities (N, C) of the classes, in the order of `classes_`."""
        logits = self._predict_logits(X)
        return self.encoder_.target.probabilities(logits)[0].numpy()

    def _check_training(self, X: Any, y: Any) -> tuple[Any, NDArray[Any]]:
        X, y = super()._check_training(X, y)
        check_classification_targets(y)
        labels = [label for label in y.tolist() if isinstance(label, str)]
        missing = next((label for label in labels if label.strip().lower() in MISSING_CLASS_WORDS), None)
        if missing is not None:
            label = repr(missing) if missing.strip() else "an empty string"
            raise InputError(f"One class label is {label}, which marks missing labels. Give the class another name.")
        return X, y

    def _set_fitted(self, program: Program, encoder: user_data.DataEncoder) -> None:
        targets = len(encoder.target.names)
        if targets > 1:
            raise DataError(f"The program predicts {targets} targets, FPTClassifier only one. Use icecore.predict.")
        super()._set_fitted(program, encoder)
        self.classes_ = encoder.target.labels()


class FPTRegressor(RegressorMixin, _FPTEstimator):
    """A regressor for one or several targets; see `FPTClassifier` for its parameters and attributes."""

    _task = "regression"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def predict(self, X: Any) -> NDArray[Any]:
        """The target of each row (N,), or several targets (N, targets) in float64.

        One target is float32, the precision of the body, or float64 if its values are too far from zero for that.
        """
        logits = self._predict_logits(X)
        target = self.encoder_.target
        columns = target.predict(logits)
        if len(columns) > 1:
            return np.stack(columns, 1)
        far = abs(target.mean[0]) > MAX_FLOAT32_OFFSET * target.std[0]
        return columns[0] if far else columns[0].astype(np.float32)


@contextmanager
def _value_errors() -> Iterator[None]:
    """Raise mistakes in the data as ValueError."""
    try:
        yield
    except UserError as error:
        raise InputError(str(error)) from error


def _numbered(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns under the names of those of an array, because scikit-learn knows no names but texts."""
    return {f"x{number}": values for number, values in enumerate(columns.values())}


def _is_mapping(X: Any) -> bool:
    """Whether X holds columns by name without being a data frame, which scikit-learn can check."""
    return isinstance(X, Mapping)


def _known_labels(y: Any) -> Any:
    """The class labels, if all are there and of one type. Raises DataError, and leaves other shapes to scikit-learn."""
    is_known = isinstance(y, list | tuple | np.ndarray) or hasattr(y, "iloc")
    if not is_known or (isinstance(y, np.ndarray) and y.dtype.kind != "O") or np.ndim(y) != 1:
        return y
    column = column_from_values("y", y)
    missing = int(column.is_missing().sum())
    is_number = column.type == "number" and column.origin == "float"
    if missing and not is_number:  # scikit-learn names nan among numbers
        texts = np.asarray(y, object)
        empty = sum(isinstance(label, str) for label in texts[column.is_missing()])
        if missing > empty:
            raise DataError(f"{missing:,} of {len(texts):,} labels are missing. Leave these rows out.")
        return np.asarray(y)
    return np.asarray(y if is_number or not isinstance(y, np.ndarray) else y.tolist())


def _is_image_array(X: Any, kind: str) -> bool:
    return isinstance(X, np.ndarray) and (X.ndim == 4 or (X.ndim == 3 and kind == "images"))


def _is_object_table(X: Any) -> bool:
    """Whether X is an array (N, columns) with texts."""
    if not isinstance(X, np.ndarray) or X.ndim != 2:
        return False
    return X.dtype.kind == "U" or (X.dtype.kind == "O" and any(isinstance(item, str) for item in X.flat))


def _select(X: Any, keep: NDArray[np.bool_]) -> Any:
    """The rows of X to keep (N,)."""
    if isinstance(X, Mapping):
        return {name: np.asarray(values)[keep] for name, values in X.items()}
    return X[keep] if isinstance(X, np.ndarray) else [row for row, kept in zip(X, keep, strict=True) if kept]


def _is_texts(X: Any) -> bool:
    return isinstance(X, list | tuple | np.ndarray) and len(X) > 0 and all(isinstance(row, str) for row in X)


def _is_list(X: Any) -> bool:
    """Whether the rows of X do not form one array: they are texts, or sequences (T,) or (T, V) of unequal lengths."""
    rows = isinstance(X, list | tuple) or (isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1)
    return _is_texts(X) or (rows and len({np.shape(row) for row in X if np.ndim(row)}) > 1)


def _dimensions(X: Any) -> int:
    return np.ndim(X) if isinstance(X, list | tuple) else getattr(X, "ndim", 2)


@lru_cache(CACHED_BODIES)
def _load_engine(
    name: str, weights: str, layers: int | None, seed: int, precision: str, device: str, fingerprint: str
) -> Engine:
    """An engine on a body. The fingerprint is a part of the key: a body with another one has other weights."""
    runtime = select_runtime(device, precision)
    return Engine(build_backbone(BodyRequest(name, weights, layers, seed)).to(runtime.device), runtime.precision)
