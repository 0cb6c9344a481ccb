import warnings

import joblib
import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from sktransfer import (
    FineTunedClassifier,
    PretrainedFeatureExtractor,
    TransferRegressor,
    UnreadableSamplesError,
    load_backbone,
    load_word_vectors,
)
from sktransfer.features.choices import candidate_layers
from sktransfer.selection.ranking import rank_backbones
from sktransfer.selection.recommendation import recommend_strategy
from sktransfer.selection.strategies import STRATEGIES, available_strategies
from sktransfer.selection.transfer import TransferClassifier
from tests.new_process import run_in_new_process
from tests.selection.support import Deeper, deeper_backbone, tried_in
from tests.support import Vectors, images, tiny_backbone

pytestmark = pytest.mark.usefixtures("one_split_in_module")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_is_a_classifier(strategy, colours):
    X, y = colours
    model = TransferClassifier(
        deeper_backbone(), strategy=strategy, max_epochs=2, random_state=0
    ).fit(X, y)
    assert model.strategy_ == strategy and model.members_ is None
    assert model.classes_.tolist() == ["dark", "light"]
    assert model.predict_proba(X).shape == (48, 2)
    assert model.score(X, y) > 0.9 or strategy == "direct"
    np.testing.assert_array_equal(
        model.predict(X), model.classes_[model.predict_proba(X).argmax(axis=1)]
    )


@pytest.mark.parametrize("cls", [TransferClassifier, TransferRegressor])
def test_several_processes_of_a_launcher_are_refused(cls, colours, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=f"{cls.__name__} .* fit it in one process"):
        cls(tiny_backbone()).fit(colours[0], np.arange(len(colours[1])))


def test_early_takes_a_layer_before_the_penultimate_one(colours):
    model = TransferClassifier(deeper_backbone(), strategy="early").fit(*colours)
    assert model.estimator_[0].layer in candidate_layers(model.backbone_)[:-1]


def test_a_strategy_that_is_not_possible_is_refused_with_those_that_are(colours):
    with pytest.raises(ValueError, match=r"allows \['direct', 'features', 'head', 'all'\]"):
        TransferClassifier(tiny_backbone(), strategy="early").fit(*colours)


def test_the_classifier_on_features_is_the_one_given(colours):
    X, y = colours
    model = TransferClassifier(
        tiny_backbone(), strategy="features", estimator=KNeighborsClassifier(3)
    ).fit(X, y)
    assert isinstance(model.estimator_[-1], KNeighborsClassifier)
    assert model.estimator_[-1] is not model.estimator
    without = TransferClassifier(tiny_backbone(), strategy="features", estimator=LinearSVC())
    assert not hasattr(without, "predict_proba")


@pytest.mark.slow
def test_auto_is_the_same_for_the_same_seed_and_says_what_it_combines(colours):
    X, y = colours
    backbone = deeper_backbone()
    first, second = (
        TransferClassifier(backbone, max_epochs=2, random_state=3).fit(X, y) for _ in range(2)
    )
    assert first.strategy_ == second.strategy_ == "blend"
    assert first.members_ == second.members_ and len(first.members_) == len(first.weights_)
    assert first.weights_.sum() == pytest.approx(1) and (np.diff(first.weights_) <= 0).all()
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))


def test_the_store_of_the_user_is_used_and_kept(colours, tmp_path):
    X, y = colours
    model = TransferClassifier(tiny_backbone(), strategy="features", memory=tmp_path).fit(X, y)
    assert (tmp_path / "features.blocks").is_dir()
    assert model.estimator_[0].memory == tmp_path
    alone = TransferClassifier(tiny_backbone(), strategy="head", max_epochs=1).fit(X, y)
    assert alone.estimator_.memory is None


def test_with_too_few_samples_there_is_no_recommendation(colours):
    X, y = colours[0][:9], np.array(["a"] * 3 + ["b"] * 6)
    found = recommend_strategy(X, y, tiny_backbone(), random_state=0)
    assert found.strategy is None and found.chosen == "features"
    assert found.reasons[0] == "too little to tell: 3 samples in class 'a'"
    assert "No recommendation" in repr(found)
    assert {"head", "last", "all"}.isdisjoint(tried_in(found))  # nothing could be told from it


@pytest.mark.filterwarnings("ignore:y has one class only")
@pytest.mark.parametrize("y", [["a"] * 6, ["a"] * 5 + ["b"], list("abcdef")])
@pytest.mark.parametrize("strategy", ["auto", "features", "early", "head"])
def test_classes_of_one_and_one_class_alone_are_fitted(y, strategy, colours):
    X = colours[0][:6]
    model = TransferClassifier(deeper_backbone(), strategy=strategy, max_epochs=1).fit(X, y)
    assert set(model.predict(X)) <= set(y)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)


@pytest.mark.parametrize("y", [[-1, 1], [3, 7], [True, False], ["ä", "b c"], [0.0, 1.0]])
def test_labels_of_any_type_come_back(y, colours):
    X, y = colours[0], np.resize(y, 48)
    model = TransferClassifier(tiny_backbone(), max_epochs=1, random_state=0).fit(X, y)
    assert model.predict(X).dtype == y.dtype and set(model.predict(X)) <= set(y)


def test_labels_are_needed(colours):
    with pytest.raises(ValueError, match="requires y"):
        TransferClassifier(tiny_backbone()).fit(colours[0], None)
    with pytest.raises(ValueError, match="inconsistent"):
        TransferClassifier(tiny_backbone()).fit(*[colours[0], colours[1][:-1]])


@pytest.mark.slow
def test_strategy_is_a_parameter_to_be_searched(colours, tmp_path):
    X, y = colours
    model = TransferClassifier(deeper_backbone(), max_epochs=1, memory=tmp_path, random_state=0)
    grid = {"strategy": ["direct", "features", "head", "auto"]}
    search = GridSearchCV(model, grid, cv=2).fit(X, y)
    assert search.best_params_["strategy"] != "direct"
    assert search.best_score_ > 0.9


@pytest.mark.sweep
def test_all_strategies_that_a_network_allows_are_searched_by_successive_halving(colours, tmp_path):
    X, y = colours
    backbone = deeper_backbone()
    model = TransferClassifier(backbone, max_epochs=1, memory=tmp_path, random_state=0)
    grid = {"strategy": available_strategies(backbone)}
    search = HalvingGridSearchCV(model, grid, factor=2, cv=2, random_state=0).fit(X, y)
    assert search.n_candidates_[0] == 6 and search.best_score_ > 0.9


def test_the_classifier_given_meets_the_labels_as_they_are(colours):
    X, y = colours
    own = LogisticRegression(C=1e6, class_weight={"dark": 2, "light": 1})
    for strategy in ("auto", "features"):
        model = TransferClassifier(
            deeper_backbone(), strategy=strategy, estimator=own, max_epochs=1, random_state=0
        )
        assert model.fit(X, y).score(X, y) > 0.9


@pytest.mark.parametrize("wrong", [Ridge(), 5, "svc", LogisticRegression, make_pipeline(Ridge())])
def test_an_estimator_that_is_no_classifier_is_refused_by_name(wrong, colours):
    for call in (
        lambda: TransferClassifier(tiny_backbone(), estimator=wrong).fit(*colours),
        lambda: recommend_strategy(*colours, tiny_backbone(), estimator=wrong),
    ):
        with pytest.raises(ValueError, match=r"estimator=|'estimator' parameter") as raised:
            call()
        assert len(str(raised.value)) < 500


@pytest.mark.parametrize("wrong", ["best", 5, None, ["features"]])
def test_a_strategy_that_is_none_is_refused_by_name(wrong, colours):
    with pytest.raises(ValueError, match="'strategy' parameter of TransferClassifier"):
        TransferClassifier(tiny_backbone(), strategy=wrong).fit(*colours)


def spread_labels(n=60):
    X, y = make_blobs(n, 6, centers=3, cluster_std=6, random_state=1)
    return X.astype(np.float32), y


def rows_backbone():
    """A network on rows of numbers with batch norm and classes: every strategy is possible."""
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU()]
    layers += [nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 3)]
    with torch.no_grad():
        for parameter in nn.Sequential(*layers).parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
        layers[1].running_mean.fill_(0.3)
    return load_backbone(nn.Sequential(*layers).eval(), classes=list("abc"))


@pytest.mark.parametrize("strategy", ["auto", *STRATEGIES])
def test_weights_reach_every_strategy(strategy):
    X, y = spread_labels()
    weight = np.where(y == 0, 50.0, 0.02)
    model = TransferClassifier(rows_backbone(), strategy=strategy, max_epochs=3, random_state=0)
    plain = model.fit(X, y).predict_proba(X)
    heavy = model.fit(X, y, sample_weight=weight).predict_proba(X)
    assert heavy[:, 0].mean() > plain[:, 0].mean() + 0.05
    ones = model.fit(X, y, sample_weight=np.ones(60)).predict_proba(X)
    np.testing.assert_allclose(ones, plain, atol=1e-5)


def wrong_labels():
    """Samples, labels of which a third is wrong, and weights of next to nothing for these."""
    X, y = spread_labels(90)
    y[:30] = (y[:30] + 1) % 3
    return X, y, np.where(np.arange(90) < 30, 1e-6, 1.0)


@pytest.mark.slow
def test_weights_reach_the_trials_and_their_accuracies():
    X, wrong, weight = wrong_labels()
    settings = {"max_epochs": 0, "random_state": 0}
    plain = recommend_strategy(X, wrong, rows_backbone(), **settings)
    weighted = recommend_strategy(
        X, wrong, rows_backbone(), **settings, sample_weight=np.where(weight < 1, 0.0, 1.0)
    )
    assert weighted.accuracy > plain.accuracy + 0.05
    scores = [found.evidence["layers"].scores.max() for found in (plain, weighted)]
    assert scores[1] > scores[0] + 0.05
    assert "60 samples" in " ".join(weighted.reasons)  # rows of weight 0 are not counted


@pytest.mark.parametrize("strategy", ["auto", "features"])
def test_an_estimator_that_takes_no_weights_is_named(strategy):
    X, y = spread_labels()
    nearest = make_pipeline(StandardScaler(), KNeighborsClassifier())
    model = TransferClassifier(rows_backbone(), strategy=strategy, estimator=nearest)
    with pytest.raises(ValueError, match=r"estimator=Pipeline(.|\n)*does not accept sample_weight"):
        model.fit(X, y, sample_weight=np.ones(60))


@pytest.mark.parametrize("routing", [False, True])
@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        make_pipeline(StandardScaler(), LogisticRegression()),
        make_pipeline(LogisticRegression()),
        GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2),
    ],
)
def test_weights_reach_an_estimator_on_top_however_it_is_built(estimator, routing):
    X, y = spread_labels()
    weight = np.where(y == 0, 50.0, 0.02)
    with config_context(enable_metadata_routing=routing):
        if routing and isinstance(estimator, GridSearchCV):
            estimator = clone(estimator)
            estimator.estimator.set_fit_request(sample_weight=True)
            estimator.estimator.set_score_request(sample_weight=True)
        model = TransferClassifier(rows_backbone(), strategy="features", estimator=estimator)
        plain = model.fit(X, y).predict_proba(X)[:, 0].mean()
        heavy = model.fit(X, y, sample_weight=weight).predict_proba(X)[:, 0].mean()
    assert heavy > plain + 0.05


@pytest.mark.parametrize(
    "wrong", [np.zeros(60), -np.ones(60), np.ones(59), np.full(60, np.nan), "x"]
)
def test_weights_that_are_none_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match="sample_weight"):
        TransferClassifier(rows_backbone(), strategy="features").fit(*spread_labels(), wrong)


def test_methods_are_those_of_the_fitted_classifier(colours):
    model = TransferClassifier(tiny_backbone(), strategy="features", estimator=LinearSVC())
    assert hasattr(model, "decision_function") and not hasattr(model, "predict_proba")
    model.fit(*colours)
    np.testing.assert_array_equal(
        model.decision_function(colours[0]) > 0, model.predict(colours[0]) == "light"
    )
    model.set_params(strategy="head", max_epochs=1).fit(*colours)
    assert hasattr(model, "predict_proba") and not hasattr(model, "decision_function")


@pytest.mark.parametrize("missing", [None, np.nan])
def test_a_missing_label_is_named(missing, colours):
    y = colours[1].astype(object)
    y[7] = missing
    with pytest.raises(ValueError, match=r"missing label: .* at 7"):
        TransferClassifier(tiny_backbone()).fit(colours[0], y)


@pytest.mark.parametrize("strategy", ["auto", "features"])
def test_unreadable_samples_are_named_by_their_place_among_all(strategy, colours):
    X, y = list(colours[0]), colours[1]
    X[40] = "nowhere.png"
    with pytest.raises(UnreadableSamplesError, match=r"sample 40, 'nowhere.png'"):
        TransferClassifier(deeper_backbone(), strategy=strategy, max_epochs=1).fit(X, y)


def test_a_strategy_asked_for_by_name_is_fitted_without_epochs_too(colours):
    model = TransferClassifier(deeper_backbone(), strategy="all", max_epochs=0).fit(*colours)
    assert model.strategy_ == "all" and model.score(*colours) > 0.9


@pytest.mark.parametrize("strategy", ["auto", "all"])
def test_texts_are_classified_too(strategy):
    words = {"good": [1.0, 0.0], "bad": [-1.0, 0.2], "film": [0.0, 1.0], "plot": [0.1, 0.9]}
    X = ["good film", "bad film", "good plot", "bad plot", "good good film", "bad bad plot"] * 3
    y = ["kind", "unkind"] * 9
    model = TransferClassifier(
        load_word_vectors(words), strategy=strategy, max_epochs=2, random_state=0
    )
    assert model.fit(X, y).score(X, y) == 1.0


@pytest.mark.slow
def test_a_pickle_predicts_the_same_in_a_new_process(colours, tmp_path):
    X, y = colours
    backbone = load_backbone("efficientnet_lite0", image_size=32)
    model = TransferClassifier(backbone, strategy="last", max_epochs=1, random_state=0).fit(X, y)
    joblib.dump((model, X), tmp_path / "model.joblib")
    code = (
        "import sys, joblib; model, X = joblib.load(sys.argv[1]); "
        "print(*model.predict(X), model.strategy_)"
    )
    told = run_in_new_process(code, tmp_path / "model.joblib").split()
    assert told == [*model.predict(X), "last"]


def test_a_network_of_ones_own_is_pickled_once(colours, tmp_path):
    X, y = colours
    model = TransferClassifier(Deeper(), strategy="features")
    model.set_params(backbone=deeper_backbone()).fit(X, y)
    again = joblib.load(joblib.dump(model, tmp_path / "m")[0])
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.estimator_[0].backbone_ is again.backbone_


@pytest.mark.slow
def test_clones_share_the_network_and_folds_run_in_processes():
    X, y = make_blobs(60, random_state=0)
    model = TransferClassifier(load_backbone(Vectors()), strategy="features")
    assert clone(model).backbone is model.backbone
    with joblib.parallel_config("multiprocessing", n_jobs=2):
        assert cross_val_score(model, X, y, cv=2).mean() > 0.8


@pytest.mark.parametrize("strategy", ["auto", "early"])
def test_warnings_of_trial_fits_do_not_reach_the_user(strategy, colours):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = TransferClassifier(deeper_backbone(), max_epochs=1, random_state=0)
        model.set_params(strategy=strategy).fit(*colours)
    assert [str(warning.message) for warning in caught] == []


def test_where_a_fitted_model_runs_can_be_set_anew(colours, tmp_path):
    model = TransferClassifier(deeper_backbone(), strategy="features", random_state=0)
    model.fit(*colours)
    expected = model.predict_proba(colours[0])
    model.set_params(verbose=1, memory=tmp_path).predict(colours[0])
    assert any(tmp_path.iterdir())
    assert np.array_equal(model.predict_proba(colours[0]), expected)
    with pytest.raises(ValueError, match="nowhere"):
        model.set_params(device="nowhere").predict(images(3, seed=5))


def test_a_fit_that_fails_leaves_the_model_as_it_was(colours):
    X, y = colours
    model = TransferClassifier(deeper_backbone(), strategy="features", random_state=0).fit(X, y)
    expected = model.predict_proba(X)
    model.set_params(strategy="early", estimator=LogisticRegression(C=-1.0))
    with pytest.raises(ValueError, match="C"):
        model.fit(X, y)
    assert model.strategy_ == "features"
    assert np.array_equal(model.predict_proba(X), expected)


def test_a_tuned_model_is_the_backbone_in_a_search_of_any_estimator(colours):
    X, y = colours
    tuned = FineTunedClassifier(deeper_backbone(), trainable=1, max_epochs=1).fit(X, y)
    for model in (
        TransferClassifier(tuned, strategy="features"),
        make_pipeline(PretrainedFeatureExtractor(tuned), LogisticRegression()),
    ):
        assert cross_val_score(model, X, y, cv=2).mean() > 0.9
    with pytest.raises(TypeError, match="is one network"):
        rank_backbones(X, y, tuned)


def test_trials_draw_no_bars(colours, capsys):
    model = TransferClassifier(deeper_backbone(), max_epochs=1, random_state=0, verbose=1)
    model.fit(*colours)
    assert 0 < capsys.readouterr().err.count("100%") < 5


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["auto", "features"])
def test_a_classifier_without_a_seed_has_that_of_the_estimator(strategy, colours):
    X, y = colours
    shuffling = make_pipeline(
        StandardScaler(), SGDClassifier(loss="log_loss", max_iter=5, tol=None)
    )
    settings = {"strategy": strategy, "estimator": shuffling, "random_state": 0}
    first, second = (TransferClassifier(tiny_backbone(), **settings).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    assert shuffling[-1].random_state is None
