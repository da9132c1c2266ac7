"""scikit-learn estimators: the checks of scikit-learn, pipelines, searches, pickles, files, and forms of data."""

import importlib
import pickle
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import icecore
from icecore.autofit import estimator_base, estimator_engines, predict
from icecore.backbones import BodyRequest, build_backbone
from icecore.backbones.backbone import fingerprint
from icecore.backbones.huggingface import HuggingFaceBackbone
from icecore.core.errors import DataError, UserError

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from icecore.autofit.estimators import FPTClassifier, FPTRegressor

SHORT: dict[str, Any] = {"layers": 1, "lrs": 6e-2, "steps": 20, "batch_size": 32, "device": "cpu", "random_state": 0}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny body with large random weights: with the usual ones, attention would hardly see other positions."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("estimator") / "bert"
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "vocab_size": 11}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = BertConfig(**sizes, num_hidden_layers=2, max_position_embeddings=32, initializer_range=0.3)
        BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def classifier(bert: str) -> Callable[..., FPTClassifier]:
    return lambda **changes: FPTClassifier(**{"backbone": bert, **SHORT, **changes})


@pytest.fixture
def regressor(bert: str) -> Callable[..., FPTRegressor]:
    return lambda **changes: FPTRegressor(**{"backbone": bert, **SHORT, **changes})


def rows(count: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of three numbers and their class, by the first one."""
    X = np.random.default_rng(seed).normal(size=(count, 3))
    return X, np.where(X[:, 0] > 0, "up", "down")


# -------------------------------------------------------------------------------- scikit-learn's own checks


def expected_failures(estimator: Any) -> dict[str, str]:
    """Checks of scikit-learn that cannot hold."""
    reason = "a step draws rows, so a row of weight 2 is not drawn as two rows are"
    return {"check_sample_weight_equivalence_on_dense_data": reason}


@parametrize_with_checks([FPTClassifier(**SHORT), FPTRegressor(**SHORT)], expected_failed_checks=expected_failures)
def test_the_checks_of_scikit_learn_pass(estimator: Any, check: Callable[[Any], None], bert: str):
    check(estimator.set_params(backbone=bert))


def test_without_scikit_learn_the_import_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "icecore.autofit.estimators")
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ImportError, match=r"pip install 'icecore\[sklearn\]'"):
        importlib.import_module("icecore.autofit.estimators")


# ------------------------------------------------------------------------------- pipelines, searches, pickles


def test_a_pipeline_learns(classifier: Callable[..., FPTClassifier]):
    X, y = load_iris(return_X_y=True)
    scaled = make_pipeline(StandardScaler(), classifier(steps=80)).fit(X, y)
    assert scaled.score(X, y) > 0.85
    probabilities = scaled.predict_proba(X)
    assert probabilities.shape == (150, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert np.array_equal(scaled.predict(X), scaled.classes_[probabilities.argmax(1)])
    weight = np.arange(150)
    hits = scaled.predict(X) == y
    assert scaled.score(X, y, sample_weight=weight) == pytest.approx((hits * weight).sum() / weight.sum())


def test_a_search_loads_each_body_once(classifier: Callable[..., FPTClassifier], bert: str):
    estimator_engines.load_engine.cache_clear()
    X, y = rows(60)
    search = GridSearchCV(classifier(steps=5), {"lrs": [1e-2, (1e-2, 3e-2)], "layers": [1, 2]}, cv=2, refit=False)
    search.fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert estimator_engines.load_engine.cache_info().misses <= 3  # the search goes through layers 1, 2, 1, 2
    copy: Any = clone(classifier(layers=2))
    assert copy.get_params() == classifier(layers=2).get_params()


def test_pickles_hold_the_program_and_not_the_body(classifier: Callable[..., FPTClassifier]):
    X, y = rows()
    fitted = classifier(steps=5).fit(X, y)
    pickled = pickle.dumps(fitted)
    program = sum(tensor.nbytes for tensor in fitted.program_.tensors.values())
    assert len(pickled) < program + 20_000
    estimator_engines.load_engine.cache_clear()
    np.testing.assert_array_equal(pickle.loads(pickled).predict_proba(X), fitted.predict_proba(X))


def test_steps_and_a_seed_decide_everything(classifier: Callable[..., FPTClassifier]):
    X, y = rows()
    first, again, same_state, other = [
        classifier(steps=5, random_state=state).fit(X, y).predict_proba(X)
        for state in (3, 3, np.random.RandomState(3), 4)
    ]
    assert np.array_equal(first, again)
    assert np.array_equal(first, same_state)
    assert not np.array_equal(first, other)


def test_threads_share_a_body_and_leave_it_unchanged(
    classifier: Callable[..., FPTClassifier], bert: str, monkeypatch: pytest.MonkeyPatch
):
    """Predictions run at the same time, each within the pass of another one, and share one engine without a lock."""
    X, y = rows()
    fitted = [classifier(steps=5, random_state=seed).fit(X, y) for seed in (0, 1)]
    alone = [each.predict_proba(X) for each in fitted]
    assert not np.array_equal(alone[0], alone[1])
    both_inside, run = threading.Barrier(2, timeout=20), HuggingFaceBackbone.run

    def run_together(self: HuggingFaceBackbone, *inputs: Any) -> torch.Tensor:
        both_inside.wait()
        return run(self, *inputs)

    monkeypatch.setattr(HuggingFaceBackbone, "run", run_together)
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda each: each.predict_proba(X), fitted * 8))
    for index, probabilities in enumerate(together):
        np.testing.assert_array_equal(probabilities, alone[index % 2])
    engine = estimator_engines.load_engine(bert, "pretrained", 1, 0, "fp32", "cpu", fitted[0].program_.fingerprint)
    fresh = build_backbone(BodyRequest(bert, layers=1))
    assert len(engine) == 0
    assert fingerprint(engine.backbone.tensors()) == fingerprint(fresh.tensors())


# ------------------------------------------------------------------------------------------------- program files


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_saved_program_predicts_the_same_everywhere(
    classifier: Callable[..., FPTClassifier],
    regressor: Callable[..., FPTRegressor],
    task: str,
    tmp_path: Path,
):
    X, y = rows()
    path = tmp_path / "mine.safetensors"
    fitted = classifier(steps=5).fit(X, y) if task == "classification" else regressor(steps=5).fit(X, 5 + 2 * X[:, 1])
    fitted.save(path)
    loaded = type(fitted).load(path, device="cpu")
    assert np.array_equal(loaded.predict(X), fitted.predict(X))
    assert (loaded.n_features_in_, loaded.n_iter_, loaded.result_) == (3, fitted.n_iter_, fitted.result_)
    (predictions,) = predict.predict([path], X, "cpu").values()
    np.testing.assert_allclose(*_as_numbers(predictions.columns["y"], fitted.predict(X)), rtol=1e-4)
    with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 3 features"):
        loaded.predict(X[:, :2])
    other = FPTRegressor if task == "classification" else FPTClassifier
    with pytest.raises(DataError, match=f"is a program for {task}, but {other.__name__} is for"):
        other.load(path)


def _as_numbers(*columns: Any) -> list[np.ndarray]:
    """Labels as 0 and 1; numbers as they are."""
    return [np.asarray(c == "up", float) if np.asarray(c).dtype.kind in "US" else np.asarray(c) for c in columns]


def test_names_of_columns_are_kept_and_checked(classifier: Callable[..., FPTClassifier], tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    X, y = rows()
    table = pyarrow.table({name: X[:, i] for i, name in enumerate(("width", "height", "depth"))})
    fitted = classifier(steps=3).fit(table, y)
    fitted.save(tmp_path / "mine.safetensors")
    loaded = FPTClassifier.load(tmp_path / "mine.safetensors", device="cpu")
    assert loaded.feature_names_in_.tolist() == ["width", "height", "depth"]
    assert np.array_equal(loaded.predict(table), fitted.predict(table))
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(table.rename_columns(["width", "height", "age"]))


# ------------------------------------------------------------------------------------------------- forms of data


def waves(count: int = 60) -> tuple[list[np.ndarray], np.ndarray]:
    """Sequences of 5 to 9 points of two values. The class says which value of the last point is larger."""
    generator = np.random.default_rng(0)
    X = [generator.normal(size=(length, 2)) for length in generator.integers(5, 10, count)]
    return X, np.array([int(row[-1, 0] > row[-1, 1]) for row in X])


def test_sequences_of_unequal_lengths(classifier: Callable[..., FPTClassifier]):
    X, y = waves()
    fitted = classifier(steps=80).fit(X, y)
    assert fitted.n_features_in_ == 2
    assert fitted.score(X, y) > 0.7
    assert np.array_equal(
        fitted.predict(np.stack([row[-5:] for row in X[:3]])), fitted.predict([r[-5:] for r in X[:3]])
    )
    single = classifier(steps=3).fit([row[:, 0] for row in X], y)
    assert single.predict([row[:4, 0] for row in X]).shape == (60,)
    with pytest.raises(ValueError, match="must have 2 values per point, as in training, but have 3"):
        fitted.predict(np.zeros((2, 5, 3)))


def test_three_dimensional_arrays_are_sequences_of_equal_lengths(regressor: Callable[..., FPTRegressor]):
    X = np.random.default_rng(0).normal(size=(60, 6, 2))
    fitted = regressor(steps=80).fit(X, X[:, -1, 0])
    assert fitted.n_features_in_ == 2
    assert fitted.score(X, X[:, -1, 0]) > 0.5
    X[0, 2, 1] = np.nan
    assert np.isfinite(fitted.predict(X)).all()


def test_the_likely_axis_of_time_is_named_in_a_warning(classifier: Callable[..., FPTClassifier]):
    X = np.random.default_rng(0).normal(size=(40, 2, 9))
    with pytest.warns(UserWarning, match=r"X: \(40, 2, 9\) has 2 points in time .* is last, fit X\.swapaxes\(1, 2\)$"):
        classifier(steps=2).fit(X, [0, 1] * 20)


def test_columns_can_be_points_in_time(classifier: Callable[..., FPTClassifier]):
    X, y = rows()
    series = classifier(steps=3, kind="series").fit(X, y)
    assert series.encoder_.form == "sequences"
    assert series.predict(X[:, :2]).shape == y.shape  # shorter ones
    assert classifier(steps=3, patch=3).fit(X, y).encoder_.spec.length == 1


def test_texts(classifier: Callable[..., FPTClassifier], tmp_path: Path):
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list("ACGT"), 6)) for _ in range(60)]
    y = [text.endswith(("A", "C")) for text in texts]
    fitted = classifier(steps=80).fit(texts, y)
    assert fitted.classes_.tolist() == [False, True]
    assert fitted.score(texts, y) > 0.8
    assert not hasattr(fitted, "n_features_in_")
    assert np.array_equal(fitted.predict(np.array(texts)), fitted.predict(texts))
    with pytest.raises(ValueError, match="the program expects texts, as in training, but the data are rows of a table"):
        fitted.predict(np.zeros((2, 3)))


def test_several_targets_and_missing_values(regressor: Callable[..., FPTRegressor]):
    X, _ = rows()
    y = np.stack([X[:, 0], 100 - 5 * X[:, 1]], 1)
    X[::7, 2] = np.nan
    fitted = regressor(steps=80).fit(X, y)
    assert fitted.predict(X).shape == y.shape
    assert fitted.score(X, y) > 0.5


def test_targets_far_from_zero_keep_their_digits(regressor: Callable[..., FPTRegressor]):
    X, _ = rows()

    def fitted(offset: float) -> FPTRegressor:
        return regressor(steps=40, precision="fp32").fit(X, X[:, 0] + offset)

    near, far = (fitted(offset).predict(X) - offset for offset in (0.0, 1e9))
    np.testing.assert_allclose(far, near, atol=1e-4)


def test_predictions_are_the_most_probable_classes_even_if_some_are_rare(classifier: Callable[..., FPTClassifier]):
    X = rows(200)[0]
    y = np.where(X[:, 0] + X[:, 1] > 2, "rare", "usual")
    fitted = classifier(steps=40).fit(X, y)
    assert fitted.encoder_.target.balanced
    probabilities = fitted.predict_proba(X)
    assert np.array_equal(fitted.predict(X), fitted.classes_[probabilities.argmax(1)])
    assert abs(probabilities[:, 0].mean() - (y == "rare").mean()) < 0.15


def test_every_validation_is_a_line_when_verbose(
    classifier: Callable[..., FPTClassifier], capsys: pytest.CaptureFixture[str]
):
    classifier(steps=3, verbose=1).fit(*rows())
    assert "step 3/3" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "table"}, "Unknown kind 'table'.*array, auto, images, series"),
        ({"validation_fraction": 0.0}, "val is 0, but validation rows are needed"),
        ({"validation_fraction": 1.5}, r"val: expected a share of the rows in \[0, 1\), found 1.5"),
        ({"patch": 0}, "patch: expected at least 1, found 0"),
    ],
)
def test_settings_that_are_not_possible(
    classifier: Callable[..., FPTClassifier], changes: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message) as caught:
        classifier(**changes).fit(*rows())
    assert isinstance(caught.value, UserError)


def test_data_that_cannot_be_learned_from(classifier: Callable[..., FPTClassifier]):
    X, y = rows()
    with pytest.raises(ValueError, match="only the class 'up' in the training rows"):
        classifier().fit(X, np.full(len(X), "up"))
    with pytest.raises(
        ValueError,
        match=r"One class label is an empty string, which marks missing labels\. Give the class another name",
    ):
        classifier().fit(X, np.where(y == "up", "up", ""))
    with pytest.raises(ValueError, match="One class label is 'NaN', which marks missing labels"):
        classifier().fit(X, np.where(y == "up", "up", "NaN"))
    with pytest.raises(ValueError, match="No column is left"):
        classifier().fit(np.ones((len(X), 2)), y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        classifier().fit(waves()[0], y)
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        classifier().fit(pytest.importorskip("scipy.sparse").csr_matrix(X), y)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        classifier().predict(X)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        classifier().save("nowhere")


def mixed_frame(rows: int = 80) -> Any:
    """A data frame with a column of each kind; the town and the flag say the class."""
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "height": rng.normal(size=rows),
            "town": pd.Series(["Ulm", "Köln"] * (rows // 2), dtype="category"),
            "flag": pd.array([True, False] * (rows // 2), "boolean"),
            "born": pd.to_datetime("2000-01-01") + pd.to_timedelta(rng.integers(0, 999, rows), "D"),
            "children": pd.array([1, None, 3, 4] * (rows // 4), "Int64"),
        }
    )


def test_a_data_frame_with_columns_of_every_kind(bert: str, tmp_path: Path):
    frame, y = mixed_frame(), ["p", "q"] * 40
    model = FPTClassifier(backbone=bert, **SHORT).fit(frame, y)
    assert model.feature_names_in_.tolist() == list(frame.columns)
    assert model.n_features_in_ == 5
    assert model.score(frame, y) > 0.9
    # the command line reads the program with the names of its columns, and the other way round
    model.save(tmp_path / "p.safetensors")
    frame.to_csv(tmp_path / "t.csv", index=False)
    predicted = icecore.predict(tmp_path / "p.safetensors", tmp_path / "t.csv").columns["y"]
    assert predicted.tolist() == model.predict(frame).tolist()
    loaded = FPTClassifier.load(tmp_path / "p.safetensors")
    assert loaded.predict(frame).tolist() == predicted.tolist()
    frame.assign(y=y).to_csv(tmp_path / "with.csv", index=False)
    out = tmp_path / "q.safetensors"
    icecore.fit(tmp_path / "with.csv", out=out, backbone=bert, steps=20, layers=1, lrs=(6e-2,), device="cpu")
    from_file = FPTClassifier.load(out)
    shuffled = frame[["flag", "town", "born", "height", "children"]].assign(more=1)
    expected = icecore.predict(out, tmp_path / "t.csv").columns["y"]
    assert from_file.predict(shuffled).tolist() == expected.tolist()


def test_images_and_tables_of_texts(bert: str):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    images = (rng.integers(0, 90, (60, 8, 8, 3)) + 120 * y[:, None, None, None]).astype(np.uint8)
    model = FPTClassifier(backbone=bert, **SHORT, patch=4).fit(images, y)
    assert model.score(images, y) > 0.9
    table = np.array([["a", "b"][c] for c in y], object)[:, None]
    assert FPTClassifier(backbone=bert, **SHORT).fit(table, y).score(table, y) == 1


def test_weights_of_rows_and_classes(bert: str):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 2))
    y = np.where(np.arange(120) % 10, "common", "rare")
    short = {**SHORT, "steps": 40}
    plain, balanced = (
        FPTClassifier(backbone=bert, **short, class_weight=weight).fit(X, y).predict_proba(X)[:, 1].mean()
        for weight in ({"common": 1, "rare": 1}, "balanced")
    )
    assert plain < 0.25 < balanced
    # rows of weight 0 are left out
    doubled = np.concatenate([X, X + 9])
    weights = np.repeat([1.0, 0.0], 120)
    model = FPTRegressor(backbone=bert, **SHORT)
    without = model.fit(X, X[:, 0]).predict(X)
    np.testing.assert_array_equal(
        model.fit(doubled, np.concatenate([X[:, 0], X[:, 1] * 99]), weights).predict(X), without
    )
    with pytest.raises(ValueError, match="must contain at least one non-zero number"):
        model.fit(X, X[:, 0], np.zeros(120))


@pytest.mark.parametrize("labels", [["a", 1], [1, "1"], ["a", None]])
def test_labels_that_cannot_be_mixed_are_refused_by_name(labels: list[Any], bert: str):
    message = (
        "1 of 2 labels are missing" if None in labels else "y must hold numbers or texts, but has values of several"
    )
    with pytest.raises(ValueError, match=message):
        FPTClassifier(backbone=bert, **SHORT).fit(np.ones((2, 2)), labels)


# ------------------------------------------------------------------------------- the minutes of a search


def clock_of_fit(monkeypatch: pytest.MonkeyPatch, model: FPTClassifier) -> Callable[[], float]:
    """What counts the minutes of a fit of this estimator."""
    clocks: list[Callable[[], float]] = []

    def fit(*arguments: Any) -> None:
        clocks.append(arguments[-1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(estimator_base.fitting, "fit", fit)
        with pytest.raises(KeyboardInterrupt):
            model.fit(np.random.default_rng(0).normal(size=(40, 3)), [0, 1] * 20)
    return clocks[0]


def test_minutes_count_the_work_and_not_the_waiting(monkeypatch: pytest.MonkeyPatch, bert: str):
    clock = clock_of_fit(monkeypatch, FPTClassifier(backbone=bert, minutes=1, device="cpu"))
    begun = clock()
    time.sleep(0.3)
    assert clock() - begun < 0.1
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert clock() - begun >= 0.2


def test_a_worker_of_a_search_counts_with_the_threads_of_its_parent(monkeypatch: pytest.MonkeyPatch, bert: str):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    model = FPTClassifier(backbone=bert, minutes=1, device="cpu")
    sent = pickle.loads(pickle.dumps(model))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = clock_of_fit(monkeypatch, sent)
    monkeypatch.setattr(estimator_base.multiprocessing, "parent_process", lambda: "a search")
    worker = clock_of_fit(monkeypatch, sent)
    assert worker() * 4 == pytest.approx(alone(), rel=0.05)
