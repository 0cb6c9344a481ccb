"""Graphs of scikit-learn's estimators answer as they do, or are refused by name."""

import re
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import (
    decomposition,
    ensemble,
    feature_selection,
    linear_model,
    naive_bayes,
    neighbors,
    preprocessing,
    svm,
    tree,
)
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from sktransfer import (
    FineTunedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    load_word_vectors,
    to_onnx,
)
from tests.persistence.cases import VECTORS
from tests.persistence.test_onnx import outputs_of
from tests.support import TESTS, images, tiny_backbone

pytest.importorskip("onnxruntime")
pytest.importorskip("skl2onnx")

N = 48
LETTERS = np.array(["a", "b", "c"])
LABELS = {
    "two texts": LETTERS[np.arange(N) % 2],
    "three texts": LETTERS[np.array([0, 1, 2, 0] * (N // 4))],
    "integers": np.array([3, 70, -5, 3] * (N // 4)),
    "truth values": np.arange(N) % 2 == 0,
}
FEW = {"max_iter": 30, "random_state": 0}
TREES = {"n_estimators": 4, "random_state": 0}
MANY = {"max_iter": 2000, "random_state": 0}
CLASSIFIERS = {
    "AdaBoostClassifier": lambda: ensemble.AdaBoostClassifier(**TREES),
    "BaggingClassifier": lambda: ensemble.BaggingClassifier(LogisticRegression(), **TREES),
    "BernoulliNB": naive_bayes.BernoulliNB,
    "CalibratedClassifierCV": lambda: CalibratedClassifierCV(LogisticRegression(), cv=3),
    "CalibratedClassifierCV(LinearSVC, isotonic)": lambda: CalibratedClassifierCV(
        LinearSVC(random_state=0), method="isotonic", cv=3
    ),
    "DecisionTreeClassifier": lambda: tree.DecisionTreeClassifier(max_depth=3, random_state=0),
    "ExtraTreesClassifier": lambda: ensemble.ExtraTreesClassifier(**TREES),
    "GaussianNB": naive_bayes.GaussianNB,
    "GradientBoostingClassifier": lambda: ensemble.GradientBoostingClassifier(**TREES),
    "GridSearchCV": lambda: GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2),
    "HistGradientBoostingClassifier": lambda: ensemble.HistGradientBoostingClassifier(
        max_iter=3, min_samples_leaf=5, random_state=0
    ),
    "KNeighborsClassifier": neighbors.KNeighborsClassifier,
    "LinearDiscriminantAnalysis": LinearDiscriminantAnalysis,
    "LinearSVC": lambda: LinearSVC(random_state=0),
    "LogisticRegression": LogisticRegression,
    "LogisticRegressionCV": lambda: linear_model.LogisticRegressionCV(
        cv=2, Cs=2, l1_ratios=(0,), use_legacy_attributes=False
    ),
    "MLPClassifier": lambda: MLPClassifier(hidden_layer_sizes=(8,), **FEW),
    "NearestCentroid": neighbors.NearestCentroid,
    "OneVsOneClassifier": lambda: OneVsOneClassifier(LogisticRegression()),
    "OneVsRestClassifier": lambda: OneVsRestClassifier(LogisticRegression()),
    "Perceptron": lambda: linear_model.Perceptron(**MANY),
    "QuadraticDiscriminantAnalysis": lambda: QuadraticDiscriminantAnalysis(reg_param=0.5),
    "RandomForestClassifier": lambda: ensemble.RandomForestClassifier(**TREES),
    "RidgeClassifier": linear_model.RidgeClassifier,
    "RidgeClassifierCV": linear_model.RidgeClassifierCV,
    "SGDClassifier": lambda: linear_model.SGDClassifier(**MANY),
    "SVC": svm.SVC,
    "StackingClassifier": lambda: ensemble.StackingClassifier(
        [("a", LogisticRegression()), ("b", naive_bayes.GaussianNB())], cv=2
    ),
    "VotingClassifier": lambda: ensemble.VotingClassifier(
        [("a", LogisticRegression()), ("b", naive_bayes.GaussianNB())]
    ),
    "VotingClassifier(voting='soft')": lambda: ensemble.VotingClassifier(
        [("a", LogisticRegression()), ("b", naive_bayes.GaussianNB())], voting="soft"
    ),
}
THRESHOLDS = {
    "FixedThresholdClassifier": lambda: FixedThresholdClassifier(
        LogisticRegression(), threshold=0.4
    ),
    "TunedThresholdClassifierCV": lambda: TunedThresholdClassifierCV(LogisticRegression(), cv=3),
}
REGRESSORS = {
    "DecisionTreeRegressor": lambda: tree.DecisionTreeRegressor(max_depth=3, random_state=0),
    "GradientBoostingRegressor": lambda: ensemble.GradientBoostingRegressor(**TREES),
    "HuberRegressor": linear_model.HuberRegressor,
    "KNeighborsRegressor": neighbors.KNeighborsRegressor,
    "Lasso": linear_model.Lasso,
    "LinearRegression": linear_model.LinearRegression,
    "MLPRegressor": lambda: MLPRegressor(hidden_layer_sizes=(8,), **FEW),
    "RandomForestRegressor": lambda: ensemble.RandomForestRegressor(**TREES),
    "Ridge": linear_model.Ridge,
    "SVR": svm.SVR,
}
BETWEEN = {
    "none": None,
    "LinearDiscriminantAnalysis": LinearDiscriminantAnalysis,
    "MinMaxScaler": preprocessing.MinMaxScaler,
    "Normalizer": preprocessing.Normalizer,
    "PCA": lambda: decomposition.PCA(2),
    "SelectKBest": lambda: feature_selection.SelectKBest(k=2),
    "StandardScaler": preprocessing.StandardScaler,
}


def features(**settings):
    return PretrainedFeatureExtractor(tiny_backbone(), **settings)


def texts(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(list(VECTORS), size)) for size in rng.integers(1, 9, size=n)]


def table(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    columns = {"photo": images(n, seed=seed), "width": rng.normal(50, 5, n)}
    return pd.DataFrame(columns | {"color": rng.choice(["red", "green"], n)})


FRONTS = {
    "images": (features, lambda n, seed: images(n, seed=seed)),
    "texts": (lambda: PretrainedFeatureExtractor(load_word_vectors(VECTORS)), texts),
    "columns": (
        lambda: ColumnTransformer(
            [
                ("photo", features(), "photo"),
                ("width", preprocessing.StandardScaler(), ["width"]),
                ("color", preprocessing.OneHotEncoder(sparse_output=False), ["color"]),
            ]
        ),
        table,
    ),
}


def outcome(model, path, samples) -> str:
    """Export and compare on samples of our own; return what to_onnx says if it refuses."""
    try:
        to_onnx(model, path)
    except (ValueError, TypeError) as error:
        return str(error)
    outputs = outputs_of(path, samples)
    certain = np.ones(len(outputs.get("label", ())), bool)
    for method, name in (("predict_proba", "probabilities"), ("decision_function", "scores")):
        if name in outputs:
            expected = getattr(model, method)(samples)
            np.testing.assert_allclose(outputs[name], expected, rtol=1e-4, atol=1e-4)
            if expected.ndim == 2:
                highest = np.sort(expected, axis=1)
                certain = highest[:, -1] - highest[:, -2] > 1e-3
    expected = model.predict(samples)
    if "label" in outputs:
        np.testing.assert_array_equal(outputs["label"][certain], expected[certain])
    else:
        np.testing.assert_allclose(outputs["prediction"], expected, rtol=1e-4, atol=1e-4)
    return ""


def fit(model, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of models that did not converge
        return model.fit(X, y)


# -- decision thresholds -----------------------------------------------------------------------

F1_OF_A = make_scorer(f1_score, pos_label="a")
WITH_THRESHOLDS = {
    "alone": lambda: FixedThresholdClassifier(
        make_pipeline(features(), LogisticRegression()), threshold=0.45
    ),
    "last step": lambda: make_pipeline(
        features(), FixedThresholdClassifier(LogisticRegression(), threshold=0.55, pos_label="a")
    ),
    "scores": lambda: make_pipeline(
        features(), FixedThresholdClassifier(LinearSVC(), threshold=0.1, pos_label="a")
    ),
    "in a search": lambda: GridSearchCV(
        FixedThresholdClassifier(make_pipeline(features(), LogisticRegression())),
        {"threshold": [0.45]},
        cv=2,
    ),
    "tuned": lambda: TunedThresholdClassifierCV(
        make_pipeline(features(), LogisticRegression()), scoring=F1_OF_A, cv=3
    ),
    "tuned last step": lambda: make_pipeline(
        features(), TunedThresholdClassifierCV(LogisticRegression(), cv=3)
    ),
    "of a tuned network": lambda: FixedThresholdClassifier(
        FineTunedClassifier(tiny_backbone(), max_epochs=1, random_state=0), threshold=0.45
    ),
    "of a blend": lambda: FixedThresholdClassifier(
        TransferClassifier(tiny_backbone(), random_state=0), threshold=0.45
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        name if name == "last step" else pytest.param(name, marks=pytest.mark.sweep)
        for name in WITH_THRESHOLDS
    ],
)
def test_labels_are_those_of_the_decision_threshold(name, tmp_path):
    X = images(N)
    model = WITH_THRESHOLDS[name]().fit(X, LABELS["two texts"])
    assert outcome(model, tmp_path / "model.onnx", X) == ""


@pytest.mark.sweep
def test_a_threshold_of_truth_values(tmp_path):
    X, last = images(N), THRESHOLDS["FixedThresholdClassifier"]()
    model = make_pipeline(features(), last).fit(X, LABELS["truth values"])
    assert outcome(model, tmp_path / "model.onnx", X) == ""


@pytest.mark.slow
def test_a_threshold_of_scores_that_the_graph_lacks_is_refused(tmp_path):
    inner = FixedThresholdClassifier(LogisticRegression(), response_method="decision_function")
    model = make_pipeline(features(), inner).fit(images(N), LABELS["two texts"])
    with pytest.raises(ValueError, match="FixedThresholdClassifier with response_method="):
        to_onnx(model, tmp_path / "model.onnx")


# -- what is refused, and what was wrong -------------------------------------------------------


@pytest.mark.slow
def test_a_step_whose_graph_answers_differently_is_named(tmp_path):
    model = make_pipeline(features(), CLASSIFIERS["CalibratedClassifierCV(LinearSVC, isotonic)"]())
    fit(model, images(N), LABELS["three texts"])
    with pytest.raises(ValueError, match=r"probabilities that differ by .* step 'calibrated"):
        to_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "labels", ["two texts", pytest.param("three texts", marks=pytest.mark.sweep)]
)
def test_discriminant_analysis_last_and_between(labels, tmp_path):
    X, y = images(N), LABELS[labels]
    model = make_pipeline(features(), LinearDiscriminantAnalysis(), LinearDiscriminantAnalysis())
    assert outcome(model.fit(X, y), tmp_path / "model.onnx", X) == ""


@pytest.mark.sweep
def test_scores_of_two_classes_have_one_axis(tmp_path):
    X, y = images(N), LABELS["two texts"]
    for last in (LinearSVC(), linear_model.RidgeClassifier(), linear_model.Perceptron()):
        model = fit(make_pipeline(features(), last), X, y)
        assert outcome(model, tmp_path / "model.onnx", X) == ""


@pytest.mark.sweep
def test_several_labels_of_a_perceptron_have_two_axes(tmp_path):
    X, y = images(N), np.random.default_rng(0).integers(0, 2, (N, 3))
    model = fit(make_pipeline(features(), CLASSIFIERS["MLPClassifier"]()), X, y)
    assert outcome(model, tmp_path / "model.onnx", X) == ""


@pytest.mark.sweep
def test_labels_above_the_largest_signed_integer(tmp_path):
    X, y = images(N), np.array([2**63 + 1, 2**63 + 5] * (N // 2), np.uint64)
    tuned = FineTunedClassifier(tiny_backbone(), max_epochs=1, random_state=0).fit(X, y)
    assert outcome(tuned, tmp_path / "model.onnx", X) == ""
    model = make_pipeline(features(), LogisticRegression()).fit(X, y)
    assert "LogisticRegression" in outcome(model, tmp_path / "other.onnx", X)


def test_other_ensembles_over_pipelines_are_refused_by_name(tmp_path):
    rows = np.random.default_rng(0).random((N, 48))
    extractor = features(image_shape=(4, 4, 3))
    model = ensemble.BaggingClassifier(make_pipeline(extractor, LogisticRegression()), 2)
    model.fit(rows, LABELS["two texts"])
    with pytest.raises(TypeError, match="BaggingClassifier is not an estimator that to_onnx"):
        to_onnx(model, tmp_path / "model.onnx")


@pytest.mark.slow
def test_without_a_runtime_a_warning_says_that_nothing_was_compared(tmp_path, monkeypatch):
    model = features().fit(images(4))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # an import raises
    with pytest.warns(UserWarning, match="was not compared with the estimator"):
        to_onnx(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").exists()


# -- many --------------------------------------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("labels", LABELS)
def test_forty_random_estimators_are_equal_or_refused_by_name(labels, tmp_path):
    rng = np.random.default_rng(list(LABELS).index(labels))
    y, known = LABELS[labels], CLASSIFIERS | (THRESHOLDS if len(set(LABELS[labels])) == 2 else {})
    counts = {"equal": 0, "refused": 0}
    for i in range(40):
        front, step, last = (rng.choice(list(some)) for some in (FRONTS, BETWEEN, known))
        make, samples = FRONTS[front]
        middle = [] if BETWEEN[step] is None else [BETWEEN[step]()]
        model = fit(make_pipeline(make(), *middle, known[last]()), samples(N, i), y)
        message = outcome(model, tmp_path / "model.onnx", samples(40, 100 + i))
        if message:
            assert re.search(rf"{last.partition('(')[0]}|{step}", message), (front, step, message)
        counts["refused" if message else "equal"] += 1
    print(counts)
    assert counts["equal"] >= 30


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
def test_the_table_of_the_documentation_says_what_is_exported(tmp_path):
    page = (TESTS.parent / "docs" / "guide" / "persistence.md").read_text()
    X = images(N)
    numbers = np.random.default_rng(0).normal(50, 10, N)
    for name, make in (CLASSIFIERS | THRESHOLDS | REGRESSORS).items():
        kinds = ("two texts",) if name in THRESHOLDS else ("two texts", "three texts", "integers")
        targets = [numbers] if name in REGRESSORS else [LABELS[kind] for kind in kinds]
        models = [fit(make_pipeline(features(), make()), X, y) for y in targets]
        messages = [outcome(model, tmp_path / "model.onnx", X) for model in models]
        found = ["no" if message else "yes" for message in messages]
        answer = found[0] if len(set(found)) == 1 else ", ".join(found)
        (row,) = re.findall(f"^\\| (.*) \\| .*`{re.escape(name)}`.*$", page, re.MULTILINE)
        assert row == {"no, yes, yes": "three texts and integers"}.get(answer, answer), name
