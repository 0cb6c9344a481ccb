"""Other programs with the estimators of this package: `pip install ".[integration]"`."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor, TransferClassifier, register_backbone
from tests.support import tiny_backbone

# Other programs warn of what is between them and their libraries.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

REGISTER = """
from sktransfer import register_backbone
from tests.support import tiny_backbone
register_backbone("tiny")(tiny_backbone)
"""


@pytest.fixture
def tiny(registry):
    """The name of a small registered network."""
    register_backbone("tiny")(tiny_backbone)
    return "tiny"


@pytest.fixture
def samples():
    """Sixty dark and light images, and their labels."""
    rng = np.random.default_rng(0)
    levels = np.repeat([60, 190], 30)
    X = rng.normal(levels[:, None, None, None], 20, (60, 16, 16, 3)).clip(0, 255).astype(np.uint8)
    return list(X), np.repeat(["dark", "light"], 30)


@pytest.fixture
def model(tiny, samples):
    pipeline = make_pipeline(PretrainedFeatureExtractor(tiny), LogisticRegression(C=10))
    return pipeline.fit(*samples)


def test_optuna_searches_layers_and_penalties(tiny, samples, tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial):
        layer = trial.suggest_categorical("layer", ["0", "2", "4"])
        extractor = PretrainedFeatureExtractor(tiny, layer=layer, memory=tmp_path)
        C = trial.suggest_float("C", 1e-3, 10, log=True)
        return cross_val_score(make_pipeline(extractor, LogisticRegression(C=C)), *samples).mean()

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=8)
    assert study.best_value > 0.9
    assert len({trial.params["layer"] for trial in study.trials}) > 1


@pytest.mark.parametrize("kind", ["pipeline", "blend"])
def test_mlflow_keeps_a_model_whose_types_are_trusted(kind, model, tiny, samples, tmp_path):
    pytest.importorskip("mlflow.sklearn")
    skops = pytest.importorskip("skops.io")
    import mlflow

    if kind == "blend":
        model = TransferClassifier(tiny, random_state=0).fit(*samples)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    mlflow.create_experiment("e", artifact_location=str(tmp_path / "artifacts"))
    mlflow.set_experiment("e")
    types = skops.get_untrusted_types(data=skops.dumps(model))
    assert all(name.startswith("sktransfer.") for name in types)
    # Without requirements mlflow loads the model in a new process, to see what it needs.
    settings = {"pip_requirements": ["sktransfer"]} if kind == "blend" else {}
    with mlflow.start_run():
        logged = mlflow.sklearn.log_model(
            model, name="model", skops_trusted_types=types, **settings
        )
    again = mlflow.sklearn.load_model(logged.model_uri)
    np.testing.assert_array_equal(again.predict_proba(samples[0]), model.predict_proba(samples[0]))


def test_shap_explains_the_linear_model_behind_the_features(model, samples):
    shap = pytest.importorskip("shap")
    features = model[0].transform(samples[0])
    explainer = shap.LinearExplainer(model[-1], features)
    values = explainer.shap_values(features)
    np.testing.assert_allclose(
        values.sum(axis=1) + explainer.expected_value,
        model.decision_function(samples[0]),
        rtol=1e-4,
        atol=1e-4,
    )


def test_cleanlab_finds_exchanged_labels(model, samples):
    filters = pytest.importorskip("cleanlab.filter")
    X, y = samples
    codes = (y == "light").astype(int)
    wrong = [3, 40]
    codes[wrong] = 1 - codes[wrong]
    probabilities = cross_val_predict(model, X, codes, cv=5, method="predict_proba")
    assert set(wrong) <= set(np.flatnonzero(filters.find_label_issues(codes, probabilities)))


def test_skops_holds_a_pipeline_by_itself(model, samples):
    skops = pytest.importorskip("skops.io")
    content = skops.dumps(model)
    again = skops.loads(content, trusted=skops.get_untrusted_types(data=content))
    np.testing.assert_array_equal(again.predict_proba(samples[0]), model.predict_proba(samples[0]))
