"""scikit-learn estimators: programs that are fitted to arrays, in pipelines and searches like any other model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icecore import user_data
from icecore.autofit.estimator_base import FPTEstimator
from icecore.autofit.estimator_inputs import InputError
from icecore.autofit.fit_settings import FitSettings
from icecore.core.errors import DataError
from icecore.model.program import Program
from icecore.user_data.cell_types import MISSING_CLASS_WORDS

try:
    from sklearn.base import ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
except ImportError as error:
    raise ImportError("icecore.autofit.estimators needs scikit-learn: pip install 'icecore[sklearn]'") from error

#: mean of a target, in standard deviations, beyond which float32 would round predictions noticeably
MAX_FLOAT32_OFFSET = 1e3


class FPTClassifier(ClassifierMixin, FPTEstimator):
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
        minutes: approximate time of `fit`, which stops earlier if the validation metric no longer improves. On a
            processor, it is counted by the work of all threads, so the `n_jobs` of a search changes no score
        steps: training steps of each run; None: as many as fit into the minutes. With a number, the same
            `random_state` gives the same program
        closed_form: start from an output layer in closed form, and keep it unless training is clearly better
        batch_size: rows in each step, for each learning rate
        start: path of a program to start from: its norms, its positions and, if tokens are alike, its input layer
        validation_fraction: share of the rows that is used to choose the learning rate and when to stop
        patch: number of columns, or of points of a sequence, in one token; None: as many as keep the tokens few enough
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


class FPTRegressor(RegressorMixin, FPTEstimator):
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
