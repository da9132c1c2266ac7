"""What both scikit-learn estimators share: parameters, checks of what they are given, fitting, saving and loading."""

import dataclasses
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icecore import user_data
from icecore.autofit import fit as fitting
from icecore.autofit.estimator_engines import load_engine
from icecore.autofit.estimator_inputs import (
    InputError,
    dimensions,
    is_image_array,
    is_list,
    is_mapping,
    is_object_table,
    is_texts,
    known_labels,
    numbered,
    select_rows,
    value_errors,
)
from icecore.autofit.fit_settings import FitSettings
from icecore.autofit.predict import ROWS_PER_PASS, read_encoder
from icecore.core.device import select_runtime
from icecore.core.errors import DataError, unknown_name
from icecore.core.settings import from_values
from icecore.model.program import Program
from icecore.training.callbacks import Callback
from icecore.training.progress import LineDisplay
from icecore.user_data.data_settings import DataSettings, TaskKind
from icecore.user_data.readers.frames import frame_columns
from icecore.user_data.split_names import NO_SPLIT

try:
    from sklearn.base import BaseEstimator
    from sklearn.utils import check_array, check_consistent_length, check_random_state
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("icecore.autofit.estimators needs scikit-learn: pip install 'icecore[sklearn]'") from error

INPUT_KINDS = ("auto", "array", "series", "images")
#: number of rows below which none can be used for validation
MIN_TRAINING_ROWS = 4


class FPTEstimator(BaseEstimator):
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
            X, y, weights = select_rows(X, weights > 0), y[weights > 0], weights[weights > 0]
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        plan = self._plan(X, y, weights, seed)
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(FitSettings) if hasattr(self, f.name)}
        options |= {"lrs": tuple(np.atleast_1d(np.asarray(self.lrs, float)).tolist()), "seeds": (seed,)}
        features: dict[str, Any] = {"n_features_in": getattr(self, "n_features_in_", None)}
        if hasattr(self, "feature_names_in_"):
            features["feature_names_in"] = self.feature_names_in_.tolist()
        extra = {"encoder": plan.encoder.to_json(), "estimator": features}
        callbacks: list[Callback] = [LineDisplay()] if self.verbose else []
        with tempfile.TemporaryDirectory(prefix="icecore-") as folder:
            out = Path(folder) / "program.safetensors"
            settings = from_values(FitSettings, options)
            result = fitting.fit(plan.task(), settings, out, extra, self.device, callbacks, self._clock())
        self._set_fitted(result.program, plan.encoder)
        return self

    def _plan(self, X: Any, y: Any, weights: NDArray[np.float64] | None, seed: int) -> user_data.Plan:
        """What is learned from checked rows, some of which are for validation. Raises ValueError."""
        with value_errors():
            if self.kind not in INPUT_KINDS:
                raise unknown_name("kind", self.kind, INPUT_KINDS)
            data_settings = DataSettings(
                task=self._task,
                kind="images" if self.kind == "images" else "auto",
                patch=self.patch,
                val=self.validation_fraction,
                test=0.0,
                # whoever gives an estimator its columns has chosen them
                keep=tuple(X) if is_mapping(X) else (),
                split=NO_SPLIT,
                seed=seed,
            )
            balance = getattr(self, "class_weight", None) is None
            plan = user_data.from_arrays(X, y, data_settings, weights=weights, balance=balance)
        for message in (message for topic, message in plan.notes if topic == "axes"):
            text = message.partition(" (--axes")[0].replace("set --axes time-last", "fit X.swapaxes(1, 2)")
            warnings.warn(f"X: {text}", UserWarning, stacklevel=3)
        settings = dataclasses.replace(plan.encoder.settings, keep=(), split=None)  # new rows are read without them
        return dataclasses.replace(plan, encoder=dataclasses.replace(plan.encoder, settings=settings))

    def __getstate__(self) -> dict[str, Any]:
        # of the process that a search of scikit-learn runs in: its workers have fewer
        state: Any = super().__getstate__()
        return {**state, "_threads": self._thread_count()}

    def _thread_count(self) -> int:
        """Threads of this process, or for a worker of a search those of the process that sent the estimator to it."""
        is_worker = multiprocessing.parent_process() is not None
        return getattr(self, "_threads", torch.get_num_threads()) if is_worker else torch.get_num_threads()

    def _clock(self) -> Callable[[], float]:
        """What counts the minutes: on a processor the work of all threads, so that `n_jobs` changes no score."""
        if select_runtime(self.device, self.precision).device.type != "cpu":
            return time.perf_counter
        threads = self._thread_count()
        return lambda: time.process_time() / threads

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
        if encoder.forecast is not None:
            raise DataError(
                f"{path} is a program that forecasts series, which {cls.__name__} cannot do. Use `icecore predict`, or "
                "`icecore serve`."
            )
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
        with value_errors():
            y = y if numeric else known_labels(y)
            columns = frame_columns(X)
        if columns is not None or is_image_array(X, self.kind) or is_object_table(X):
            y = validate_data(self, y=y, **target_rules)
            if columns is not None and not is_mapping(X):
                validate_data(self, X, skip_check_array=True)
                if not hasattr(self, "feature_names_in_"):
                    columns = numbered(columns)
            else:
                self.__dict__.pop("feature_names_in_", None)
                self.n_features_in_ = len(columns) if columns is not None else int(np.shape(X)[1])
            check_consistent_length(next(iter(columns.values())) if columns else X, y)
            return (columns if columns is not None else X), y
        if self.kind != "series" and not is_list(X) and dimensions(X) != 3:
            rules: dict[str, Any] = {"ensure_all_finite": "allow-nan", "ensure_min_samples": MIN_TRAINING_ROWS}
            checked: Any = validate_data(self, X, y, **rules, **target_rules)
            return checked
        y = validate_data(self, y=y, **target_rules)
        self.__dict__.pop("n_features_in_", None)
        if not is_texts(X):
            X = self._check_sequences(X)
            # V, which is the same for every point of every row
            self.n_features_in_ = int(X[0].shape[1])
        check_consistent_length(X, y)
        return X, y

    def _check_new(self, X: Any) -> Any:
        """Check new rows. Returns X in a form that `user_data.encode` reads, the form of the training rows."""
        form = self.encoder_.form
        with value_errors():
            columns = frame_columns(X)
        names = getattr(self, "feature_names_in_", None)
        if columns is not None:
            if names is not None and not is_mapping(X):
                validate_data(self, X, reset=False, skip_check_array=True)
            # a model that was fitted to an array knows its columns by number only
            is_numbered = form == "table" and names is None and hasattr(self, "n_features_in_")
            if not is_numbered or "x0" in columns:
                return columns
            if not is_mapping(X):
                validate_data(self, X, reset=False, skip_check_array=True)
                return numbered(columns)
        if form == "images" or is_object_table(X):
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
        if is_list(X):
            return [check_array(row if np.ndim(row) > 1 else np.reshape(row, (-1, 1)), **rules) for row in X]
        X = check_array(X, **rules)
        return X[..., None] if X.ndim == 2 else X

    def _predict_logits(self, X: Any) -> Tensor:
        """Logits (N, 1, C) of new rows, on the CPU."""
        check_is_fitted(self)
        X = self._check_new(X)
        with value_errors():
            task = user_data.encode(self.encoder_, X).task(self.encoder_)
        config = self.program_.config
        engine = load_engine(*config.body, config.precision, self.device, self.program_.fingerprint)
        # loaded but not added: the engine belongs to all estimators on this body, in any thread
        program = engine.load(self.program_, "estimator")
        logits = [torch.stack(engine.predict(batch, program)) for batch in task.batches("test", ROWS_PER_PASS)]
        return torch.cat(logits).cpu()
