"""scikit-learn estimators: a program fitted to arrays, in pipelines and searches like any other model.

An estimator holds its program, never the body: that is loaded when first needed and shared by all estimators
of a process, so pickles are small and a search over hundreds of candidates loads a body once.
"""

import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icecore import user_data as own
from icecore.autofit import fit as fitting
from icecore.autofit.predict import ROWS, encoder_of
from icecore.backbones import BodyRequest, build_backbone
from icecore.core.device import select_runtime
from icecore.core.errors import DataError, UserError, unknown_name
from icecore.inference.engine import Engine
from icecore.model.program import Program
from icecore.training.progress import LineDisplay
from icecore.user_data.columns import NO_CLASS
from icecore.user_data.records import DataSettings, TaskKind

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_array, check_consistent_length, check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("icecore.autofit.estimators needs scikit-learn: pip install 'icecore[sklearn]'") from error

KINDS = ("auto", "array", "series")
#: rows below which none can be held out for validation
FEWEST_ROWS = 4
#: standard deviations from zero beyond which float32 would round a target noticeably
FAR = 1e3
#: bodies kept for prediction, each as large as its weights
BODIES = 2
#: passes lend the body their programs' norms, so one at a time
_SERVING = threading.Lock()


class InputError(DataError, ValueError):
    """Data that an estimator cannot use, as the ValueError that scikit-learn expects of it."""


class _FPTEstimator(BaseEstimator):
    """What both estimators share; see `FPTClassifier` for the parameters."""

    _task: TaskKind
    n_features_in_: int
    feature_names_in_: NDArray[Any]

    def __init__(
        self,
        *,
        backbone: str = "minilm",
        weights: str = "pretrained",
        layers: int | None = None,
        lrs: float | Sequence[float] = fitting.LRS,
        minutes: float = 1.0,
        steps: int | None = None,
        batch_size: int = 16,
        validation_fraction: float = 0.15,
        patch: int | None = None,
        kind: str = "auto",
        precision: str = "auto",
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.layers = layers
        self.lrs = lrs
        self.minutes = minutes
        self.steps = steps
        self.batch_size = batch_size
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
        # how many steps fit the minutes is for the clock to say
        tags.non_deterministic = self.steps is None
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """Train a program on rows X and their targets y, some of them held out to choose it by.

        X  (N, columns) numbers, nan where missing; (N, T, V) or a list of N arrays (T,) or (T, V); or N texts
        y  (N,), and for regression also (N, targets)

        Raises ValueError for what cannot be learned from, UserError for settings and weights.
        """
        X, y = self._check_training(X, y)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with _value_errors():
            if self.kind not in KINDS:
                raise unknown_name("kind", self.kind, KINDS)
            wanted = DataSettings(task=self._task, patch=self.patch, val=self.validation_fraction, test=0.0, seed=seed)
            plan = own.from_arrays(X, y, wanted)
        settings = fitting.FitSettings(
            backbone=self.backbone,
            weights=self.weights,
            layers=self.layers,
            lrs=tuple(np.atleast_1d(np.asarray(self.lrs, float)).tolist()),
            seeds=(seed,),
            batch_size=self.batch_size,
            minutes=self.minutes,
            steps=self.steps,
            precision=self.precision,
        )
        names = {"n_features_in": getattr(self, "n_features_in_", None)}
        if hasattr(self, "feature_names_in_"):
            names["feature_names_in"] = self.feature_names_in_.tolist()
        extra = {"encoder": plan.encoder.to_json(), "estimator": names}
        watchers = [LineDisplay()] if self.verbose else []
        with tempfile.TemporaryDirectory(prefix="icecore-") as folder:
            out = Path(folder) / "program.safetensors"
            self._adopt(fitting.fit(plan.task(), settings, out, extra, self.device, watchers).program, plan.encoder)
        return self

    def save(self, path: str | PathLike[str]) -> None:
        """Write the program: a file for `load`, `icecore predict` and `icecore push`. Raises StorageError."""
        check_is_fitted(self)
        self.program_.save(Path(path))

    @classmethod
    def load(cls, path: str | PathLike[str], device: str = "auto") -> Self:
        """The fitted estimator of a program file, also of one that `icecore fit` wrote. Raises DataError."""
        program = Program.load(Path(path))
        encoder = encoder_of(program, Path(path))
        if encoder.settings.task != cls._task:
            raise DataError(f"{path}: a program for {encoder.settings.task}; {cls.__name__} is for {cls._task}")
        config, told = program.config, program.extra.get("estimator", {})
        loaded = cls(
            backbone=config.backbone,
            weights=config.weights,
            layers=config.layers,
            lrs=(config.lr,),
            steps=config.steps,
            batch_size=config.batch_size,
            validation_fraction=encoder.settings.val,
            patch=encoder.settings.patch,
            precision=config.precision,
            device=device,
            random_state=config.seed,
        )
        if told.get("n_features_in") is not None:
            loaded.n_features_in_ = told["n_features_in"]
        if "feature_names_in" in told:
            loaded.feature_names_in_ = np.array(told["feature_names_in"], object)
        loaded._adopt(program, encoder)
        return loaded

    def _adopt(self, program: Program, encoder: own.DataEncoder) -> None:
        """Be fitted."""
        self.program_, self.encoder_ = program, encoder
        self.result_ = dict(program.extra["result"])
        self.n_iter_ = int(self.result_["steps"])

    def _check_training(self, X: Any, y: Any) -> tuple[Any, NDArray[Any]]:
        """X as `own.from_arrays` takes it, and y, both of as many rows."""
        targets: dict[str, Any] = {"multi_output": self._task == "regression", "y_numeric": self._task == "regression"}
        if self.kind != "series" and not _is_list(X) and _dimensions(X) != 3:
            rows: dict[str, Any] = {"ensure_all_finite": "allow-nan", "ensure_min_samples": FEWEST_ROWS}
            checked: Any = validate_data(self, X, y, **rows, **targets)
            return checked
        y = validate_data(self, y=y, **targets)
        self.__dict__.pop("n_features_in_", None)
        if not _is_texts(X):
            X = self._sequences(X)
            # V, the same at every point of every row
            self.n_features_in_ = int(X[0].shape[1])
        check_consistent_length(X, y)
        return X, y

    def _check_new(self, X: Any) -> Any:
        """X as `own.encode` takes it, of the form of the training rows."""
        form = self.encoder_.form
        if form == "table":
            return validate_data(self, X, reset=False, ensure_all_finite="allow-nan")
        return self._sequences(X) if form == "sequences" else X

    def _sequences(self, X: Any) -> Any:
        """Rows (T,) or (T, V) as one array (N, T, V), or, where their lengths are unequal, as a list of (T, V)."""
        rules: dict[str, Any] = {"ensure_all_finite": "allow-nan", "allow_nd": True, "estimator": self}
        if _is_list(X):
            return [check_array(row if np.ndim(row) > 1 else np.reshape(row, (-1, 1)), **rules) for row in X]
        X = check_array(X, **rules)
        return X[..., None] if X.ndim == 2 else X

    def _logits(self, X: Any) -> Tensor:
        """Logits (N, 1, C) of new rows, on the CPU."""
        check_is_fitted(self)
        X = self._check_new(X)
        with _value_errors():
            task = own.encode(self.encoder_, X).task(self.encoder_)
        config = self.program_.config
        with _SERVING:
            engine = _engine(*config.body, config.precision, self.device, self.program_.fingerprint)
            engine.add(self.program_, "estimator")
            try:
                found = [torch.stack(engine.predict(batch, "estimator")) for batch in task.batches("test", ROWS)]
            finally:
                engine.remove("estimator")
        return torch.cat(found).cpu()


class FPTClassifier(ClassifierMixin, _FPTEstimator):
    """Classification with a frozen pretrained transformer, of which only a small program is trained.

    >>> FPTClassifier(minutes=5).fit(X, y).predict_proba(X_new)  # doctest: +SKIP

    `predict` is the likeliest class of `predict_proba`, whose chances are those under the training rows' shares of
    classes. Where classes are imbalanced, `icecore predict` on a saved program favours rare ones: it aims at
    balanced accuracy.

    Parameters:
        backbone: name of the body, a folder or a hub name (`icecore backbones` lists them)
        weights: "pretrained", "random", "statistics" or a weights file
        layers: how many of the body's layers are used, the first ones; None: all
        lrs: learning rates, trained together; validation chooses one
        minutes: how long `fit` takes, about; it stops earlier where validation no longer improves
        steps: of training instead of what the minutes allow; then the same `random_state` gives the same program
        batch_size: rows a step and learning rate
        validation_fraction: share of the rows that is held out to choose the learning rate and when to stop
        patch: columns, or points of a sequence, a token; None: so that tokens are few enough
        kind: "series": the columns of 2-D rows are points in time; "auto" and "array": they are columns of a table
        precision: of the frozen products: "auto", "fast", "fp32", "bf16" or "int8"
        device: "auto", "cpu", "cuda" or "mps"
        random_state: seed of the held-out rows, the start and the order of training; int, RandomState or None
        verbose: 1 prints a line at each validation

    Attributes:
        classes_: (C,) in ascending order
        program_: the Program; `encoder_` is how it reads rows
        result_: what was reached on the held-out rows: "metric", "lr", "steps", ...
        n_iter_: steps after which the program was best on the held-out rows
        n_features_in_: columns of a table, or values a point of sequences; not of texts
        feature_names_in_: columns of a table that had names
    """

    _task = "classification"

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest class of each row (N,)."""
        # first, as it may be that there are no classes yet
        chances = self.predict_proba(X)
        return self.classes_[chances.argmax(1)]

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Probabilities (N, C) of the classes, in the order of `classes_`."""
        logits = self._logits(X)
        return self.encoder_.target.probabilities(logits)[0].numpy()

    def _check_training(self, X: Any, y: Any) -> tuple[Any, NDArray[Any]]:
        X, y = super()._check_training(X, y)
        check_classification_targets(y)
        if lost := [label for label in y.tolist() if isinstance(label, str) and label.strip().lower() in NO_CLASS]:
            what = f"called {lost[0]!r}" if lost[0].strip() else "an empty text"
            raise InputError(f"a class is {what}, which is how missing ones are written; give it a name")
        return X, y

    def _adopt(self, program: Program, encoder: own.DataEncoder) -> None:
        if len(encoder.target.names) > 1:
            raise DataError(f"a program for {len(encoder.target.names)} targets of classes; use icecore predict")
        super()._adopt(program, encoder)
        self.classes_ = encoder.target.labels()


class FPTRegressor(RegressorMixin, _FPTEstimator):
    """Regression of one or several targets with a frozen pretrained transformer; see `FPTClassifier`."""

    _task = "regression"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def predict(self, X: Any) -> NDArray[Any]:
        """The target of each row (N,), or several (N, targets) float64.

        One target is float32, as precise as the body computes; float64 where it lies too far from zero for that.
        """
        logits = self._logits(X)
        target = self.encoder_.target
        columns = target.predict(logits)
        if len(columns) > 1:
            return np.stack(columns, 1)
        far = abs(target.mean[0]) > FAR * target.std[0]
        return columns[0] if far else columns[0].astype(np.float32)


@contextmanager
def _value_errors() -> Iterator[None]:
    """Mistakes in the data as ValueError."""
    try:
        yield
    except UserError as error:
        raise InputError(str(error)) from error


def _is_texts(X: Any) -> bool:
    return isinstance(X, list | tuple | np.ndarray) and len(X) > 0 and all(isinstance(row, str) for row in X)


def _is_list(X: Any) -> bool:
    """Whether the rows of X make no array of numbers: texts, or sequences (T,) or (T, V) of unequal lengths."""
    rows = isinstance(X, list | tuple) or (isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1)
    return _is_texts(X) or (rows and len({np.shape(row) for row in X if np.ndim(row)}) > 1)


def _dimensions(X: Any) -> int:
    return np.ndim(X) if isinstance(X, list | tuple) else getattr(X, "ndim", 2)


@lru_cache(BODIES)
def _engine(
    name: str, weights: str, layers: int | None, seed: int, precision: str, device: str, fingerprint: str
) -> Engine:
    """An engine on a body, of which programs have this fingerprint: another one means other weights."""
    runtime = select_runtime(device, precision)
    return Engine(build_backbone(BodyRequest(name, weights, layers, seed)).to(runtime.device), runtime.precision)
