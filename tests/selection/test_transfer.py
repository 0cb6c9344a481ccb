import warnings

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from sktransfer import (
    FineTunedClassifier,
    PretrainedFeatureExtractor,
    UnreadableSamplesError,
    load_backbone,
    load_word_vectors,
)
from sktransfer.engines.torch import Engine
from sktransfer.features.layer_choice import candidate_layers
from sktransfer.selection import study
from sktransfer.selection.ranking import probe_layers, rank_backbones
from sktransfer.selection.recommendation import Outlook, decide, is_settled
from sktransfer.selection.rules import RULES, expected_gain, headroom_of, learning_rate, update
from sktransfer.selection.strategies import STRATEGIES, available, halving, trainable
from sktransfer.selection.transfer import TransferClassifier, recommend_strategy
from sktransfer.transferability.folds import make_folds
from sktransfer.transferability.probes import summarise
from tests.support import TinyNet, Vectors, images, random_backbone, run_python, tiny_backbone


@pytest.mark.filterwarnings("ignore")  # the checks provoke them
@parametrize_with_checks([TransferClassifier(load_backbone(Vectors()), max_epochs=1)])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


class Deeper(TinyNet):
    """Four convolutions with batch norm, three classes: every strategy is possible."""

    def __init__(self):
        super().__init__()
        for i in range(3):
            self.insert(3, _Block(i))


def _Block(seed):
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())


def deeper_backbone():
    settings = {"preprocess": tiny_backbone().preprocess, "classes": ["a", "b", "c"]}
    return load_backbone(Deeper(), **settings)


@pytest.fixture(scope="module")
def colours():
    """Two kinds of pictures that are told apart easily, and labels."""
    X = images(48)
    y = np.array(["dark", "light"] * 24)
    X = [(x // 3 if label == "dark" else 255 - x // 3) for x, label in zip(X, y, strict=True)]
    return X, y


# -- candidates --------------------------------------------------------------------------------


def test_strategies_are_those_that_the_network_allows():
    assert available(deeper_backbone()) == list(STRATEGIES)
    assert available(tiny_backbone()) == ["direct", "features", "head", "all"]
    assert "direct" not in available(load_backbone(Vectors()))
    assert available(random_backbone("resnet18")) == list(STRATEGIES)


def test_the_last_stages_are_two_where_there_are_more():
    assert trainable("last", deeper_backbone()) == 2
    assert trainable("last", load_backbone(Vectors())) == 1
    assert trainable("all", tiny_backbone()) == "all"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_is_a_classifier(strategy, colours):
    X, y = colours
    model = TransferClassifier(
        deeper_backbone(), strategy=strategy, max_epochs=2, random_state=0
    ).fit(X, y)
    assert model.strategy_ == strategy and model.recommendation_ is None
    assert model.classes_.tolist() == ["dark", "light"]
    assert model.predict_proba(X).shape == (48, 2)
    assert model.score(X, y) > 0.9 or strategy == "direct"
    np.testing.assert_array_equal(
        model.predict(X), model.classes_[model.predict_proba(X).argmax(axis=1)]
    )


def test_early_takes_a_layer_before_the_penultimate_one(colours):
    model = TransferClassifier(deeper_backbone(), strategy="early").fit(*colours)
    assert model.estimator_[0].layer in candidate_layers(model.backbone_)[:-1]


def test_a_strategy_that_is_not_possible_is_refused_with_those_that_are(colours):
    with pytest.raises(ValueError, match=r"allows \['direct', 'features', 'head', 'all'\]"):
        TransferClassifier(tiny_backbone(), strategy="early").fit(*colours)


def test_a_name_that_is_none_is_refused(colours):
    with pytest.raises(ValueError, match="'strategy' parameter"):
        TransferClassifier(tiny_backbone(), strategy="best").fit(*colours)


def test_the_classifier_on_features_is_the_one_given(colours):
    X, y = colours
    model = TransferClassifier(
        tiny_backbone(), strategy="features", estimator=KNeighborsClassifier(3)
    ).fit(X, y)
    assert isinstance(model.estimator_[-1], KNeighborsClassifier)
    assert model.estimator_[-1] is not model.estimator
    without = TransferClassifier(tiny_backbone(), estimator=LinearSVC())
    assert not hasattr(without, "predict_proba")


# -- auto --------------------------------------------------------------------------------------


def test_auto_is_the_same_for_the_same_seed_and_explains_itself(colours):
    X, y = colours
    backbone = deeper_backbone()
    first, second = (
        TransferClassifier(backbone, max_epochs=2, random_state=3).fit(X, y) for _ in range(2)
    )
    assert first.strategy_ == second.strategy_ == first.recommendation_.chosen
    assert repr(first.recommendation_) == repr(second.recommendation_)
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))


def test_auto_is_the_advised_strategy_fitted_with_the_same_seed(colours):
    X, y = colours
    backbone = deeper_backbone()
    auto = TransferClassifier(backbone, max_epochs=2, random_state=3).fit(X, y)
    advice = recommend_strategy(X, y, backbone, max_epochs=2, random_state=3)
    assert advice.chosen == auto.strategy_
    named = clone(auto).set_params(strategy=auto.strategy_).fit(X, y)
    np.testing.assert_array_equal(named.predict_proba(X), auto.predict_proba(X))


def test_times_decide_nothing(colours, monkeypatch):
    X, y = colours
    backbone = deeper_backbone()
    found = []
    for seconds in (1e-6, 1e6):
        monkeypatch.setattr(
            "sktransfer.selection.timing.seconds_of", lambda action, on=None, s=seconds: s
        )
        found.append(recommend_strategy(X, y, backbone, max_epochs=2, random_state=0))
    assert found[0].strategy == found[1].strategy
    assert [o.gain for o in found[0].table] == [o.gain for o in found[1].table]
    assert all(a.seconds < b.seconds for a, b in zip(*(f.table for f in found), strict=True))


@pytest.fixture
def seen(monkeypatch):
    """What went through the network: a recipe and a sample, in order."""
    found = []
    run = Engine.run

    def watched(self, tensors, batch_size):
        recipe = self.recipe
        if recipe.backbone.name != "tail":  # not what is trained on top
            found.extend((recipe.layers, recipe.pooling, t.numpy().tobytes()) for t in tensors)
        return run(self, tensors, batch_size)

    monkeypatch.setattr(Engine, "run", watched)
    return found


@pytest.mark.parametrize("strategy", ["auto", "search"])
def test_no_sample_passes_the_same_stages_twice(strategy, colours, seen):
    X, y = colours
    TransferClassifier(deeper_backbone(), strategy=strategy, max_epochs=1, random_state=0).fit(X, y)
    assert len(set(seen)) == len(seen)
    # All layers pooled and the outputs; the cuts of "features", "direct", "head" and "last".
    assert len({what[:2] for what in seen}) <= 5


def test_the_store_of_the_user_is_used_and_kept(colours, tmp_path):
    X, y = colours
    model = TransferClassifier(tiny_backbone(), strategy="features", memory=tmp_path).fit(X, y)
    assert (tmp_path / "features.sqlite").exists()
    assert model.estimator_[0].memory == tmp_path
    alone = TransferClassifier(tiny_backbone(), strategy="head", max_epochs=1).fit(X, y)
    assert alone.estimator_.memory is None


def test_with_too_few_samples_it_abstains_and_uses_features(colours, tried):
    X, y = colours[0][:9], np.array(["a"] * 3 + ["b"] * 6)
    model = TransferClassifier(tiny_backbone(), random_state=0).fit(X, y)
    found = model.recommendation_
    assert found.strategy is None and found.chosen == model.strategy_ == "features"
    assert found.reasons[0] == "too little to tell: 3 samples in class 'a'"
    assert "No recommendation" in repr(found)
    assert {"head", "last", "all"}.isdisjoint(tried)  # nothing could be told from it


@pytest.mark.parametrize("y", [["a"] * 6, ["a"] * 5 + ["b"], list("abcdef")])
@pytest.mark.parametrize("strategy", ["auto", "search", "features", "early", "head"])
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


# -- as an estimator ---------------------------------------------------------------------------


def test_strategy_is_a_parameter_to_be_searched(colours, tmp_path):
    X, y = colours
    model = TransferClassifier(deeper_backbone(), max_epochs=1, memory=tmp_path, random_state=0)
    grid = {"strategy": ["direct", "features", "head", "auto"]}
    search = GridSearchCV(model, grid, cv=2).fit(X, y)
    assert search.best_params_["strategy"] != "direct"
    assert search.best_score_ > 0.9


def test_the_classifier_given_meets_the_labels_as_they_are(colours):
    X, y = colours
    own = LogisticRegression(class_weight={"dark": 2, "light": 1})
    for strategy in ("auto", "search"):
        model = TransferClassifier(
            deeper_backbone(), strategy=strategy, estimator=own, max_epochs=1, random_state=0
        )
        assert model.fit(X, y).score(X, y) > 0.9


def test_what_is_no_classifier_is_refused(colours):
    with pytest.raises(ValueError, match="no classifier"):
        TransferClassifier(tiny_backbone(), estimator=Ridge()).fit(*colours)


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


@pytest.mark.parametrize("strategy", ["auto", "search", "features"])
def test_unreadable_samples_are_named_by_their_place_among_all(strategy, colours):
    X, y = list(colours[0]), colours[1]
    X[40] = "nowhere.png"
    with pytest.raises(UnreadableSamplesError, match=r"sample 40, 'nowhere.png'"):
        TransferClassifier(deeper_backbone(), strategy=strategy, max_epochs=1).fit(X, y)


def test_without_epochs_nothing_of_the_network_is_advised(colours):
    found = recommend_strategy(*colours, deeper_backbone(), max_epochs=0, random_state=0)
    assert {"last", "all"}.isdisjoint(outlook.name for outlook in found.table)


def test_a_strategy_asked_for_by_name_is_fitted_without_epochs_too(colours):
    model = TransferClassifier(deeper_backbone(), strategy="all", max_epochs=0).fit(*colours)
    assert model.strategy_ == "all" and model.score(*colours) > 0.9


def test_accuracies_that_are_not_known_are_not_shown_as_perfect(colours):
    found = recommend_strategy(colours[0][:6], list("abcdef"), tiny_backbone(), max_epochs=1)
    assert all(np.isnan(outlook.accuracy) for outlook in found.table)


def test_no_more_samples_are_looked_at_than_the_table_says(colours, counted, monkeypatch):
    monkeypatch.setitem(RULES, "rows", 12)
    recommend_strategy(*colours, tiny_backbone(), max_epochs=0, random_state=0)
    assert max(counted) <= 12


def test_search_without_scores_leaves_nobody_out():
    rounds = halving(list("abc"), lambda name, rows: np.nan, np.arange(6), 0)
    assert [sorted(found) for found in rounds] == [list("abc")] * 2


def test_search_gives_small_classes_enough_rows_to_be_split(colours):
    y = np.repeat(np.arange(12), 4)
    model = TransferClassifier(deeper_backbone(), strategy="search", max_epochs=1, random_state=0)
    assert not np.isnan(list(model.fit(colours[0], y).search_[0].values())).any()


@pytest.mark.parametrize("strategy", ["auto", "all"])
def test_texts_are_classified_too(strategy):
    words = {"good": [1.0, 0.0], "bad": [-1.0, 0.2], "film": [0.0, 1.0], "plot": [0.1, 0.9]}
    X = ["good film", "bad film", "good plot", "bad plot", "good good film", "bad bad plot"] * 3
    y = ["kind", "unkind"] * 9
    model = TransferClassifier(
        load_word_vectors(words), strategy=strategy, max_epochs=2, random_state=0
    )
    assert model.fit(X, y).score(X, y) == 1.0


def test_search_halves_the_candidates(colours):
    X, y = colours
    model = TransferClassifier(
        deeper_backbone(), strategy="search", max_epochs=1, random_state=0
    ).fit(X, y)
    assert [len(found) for found in model.search_] == [6, 3, 2]
    assert model.strategy_ == next(iter(model.search_[-1]))


def test_halving_keeps_the_better_half_and_gives_them_more():
    seen = []

    def score(name, rows):
        seen.append((name, len(rows)))
        return {"a": 0.3, "b": 0.9, "c": 0.5, "d": 0.9}[name]

    y = np.repeat([0, 1], 100)
    rounds = halving(list("abcd"), score, y, 0)
    assert [sorted(found) for found in rounds] == [list("abcd"), ["b", "d"]]
    assert next(iter(rounds[-1])) == "b"  # the simpler of equals
    assert {n for _, n in seen[:4]} == {100} and {n for _, n in seen[4:]} == {200}


def test_a_pickle_predicts_the_same_in_a_new_process(colours, tmp_path):
    X, y = colours
    backbone = load_backbone("efficientnet_lite0", image_size=32)
    model = TransferClassifier(backbone, strategy="last", max_epochs=1, random_state=0).fit(X, y)
    joblib.dump((model, X), tmp_path / "model.joblib")
    code = (
        "import sys, joblib; model, X = joblib.load(sys.argv[1]); "
        "print(*model.predict(X), model.strategy_)"
    )
    told = run_python(code, tmp_path / "model.joblib").split()
    assert told == [*model.predict(X), "last"]


def test_a_network_of_ones_own_is_pickled_once(colours, tmp_path):
    X, y = colours
    model = TransferClassifier(Deeper(), strategy="features", image_shape=None)
    model.set_params(backbone=deeper_backbone()).fit(X, y)
    again = joblib.load(joblib.dump(model, tmp_path / "m")[0])
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.estimator_[0].backbone_ is again.backbone_


def test_clones_share_the_network_and_folds_run_in_processes():
    X, y = make_blobs(60, random_state=0)
    model = TransferClassifier(load_backbone(Vectors()), strategy="features")
    assert clone(model).backbone is model.backbone
    assert cross_val_score(model, X, y, cv=2, n_jobs=2).mean() > 0.8


# -- rules -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES["gains"])
def test_what_is_expected_is_continuous_in_size_and_similarity(name):
    by_size = [expected_gain(name, 0.2, n, 0.2, 0.0)[0] for n in range(5, 500, 5)]
    by_similarity = [expected_gain(name, 0.2, 50, s, 0.0)[0] for s in np.linspace(0, 1, 50)]
    assert np.abs(np.diff(by_size)).max() < 0.03
    assert np.abs(np.diff(by_similarity)).max() < 0.03
    assert expected_gain(name, 0.0, 100, 0.2, 0.0) == (0.0, 0.0)  # nothing is left to gain


def test_fixed_features_are_what_gains_are_measured_from():
    assert expected_gain("features", 0.5, 5, None, 0.0) == (0.0, 0.0)


def test_training_and_earlier_layers_are_expected_to_pay_more_where_data_are_unlike():
    for name in ("early", "all"):
        unlike, alike = (expected_gain(name, 0.2, 50, s, 0.0)[0] for s in (0.1, 0.9))
        assert unlike > alike


def test_direct_use_is_expected_to_pay_where_its_classes_explain_the_labels():
    knows, does_not = (expected_gain("direct", 0.1, 5, 0.9, share)[0] for share in (0.95, 0.5))
    assert knows > 0 > does_not


def test_measurement_replaces_expectation_as_it_grows_surer():
    expected = (0.1, 0.05)
    assert update(expected, summarise(np.array([]))) == expected
    few, many = (update(expected, summarise(np.zeros(n))) for n in (10, 1000))
    assert 0 < many[0] < few[0] < 0.1
    assert many[1] < few[1] < 0.05


def test_errors_to_come_are_never_thought_to_be_none():
    assert 0.05 < headroom_of(1.0, 10) < 0.15
    assert headroom_of(1.0, 1000) < 0.01
    assert headroom_of(0.6, 10_000) == pytest.approx(0.4, abs=1e-3)
    assert headroom_of(float("nan"), 0) == 0.5


def test_a_strategy_is_tried_on_until_it_can_hardly_change_the_choice():
    best = [Outlook("features", 0.0, 0.0), Outlook("early", 0.1, 0.02)]
    assert is_settled(Outlook("all", 0.0, 0.05), best)  # out of reach
    assert not is_settled(Outlook("all", 0.1, 0.05), best)
    assert is_settled(Outlook("all", 0.3, 0.05), best)  # out of doubt


def test_few_rows_are_split_several_times_and_many_once():
    X, y = make_blobs(80, centers=2, n_features=4, random_state=0)

    def n_splits(n):
        rows = {"X": X[:n].astype(np.float32), "y": y[:n]}
        with TransferClassifier(load_backbone(Vectors()))._study(**rows) as found:
            splits = found.splits
        assert all(len(folds) in (3, 5) for folds in splits)
        tests = [np.concatenate([test for _, test in folds]) for folds in splits]
        assert all(sorted(test) == list(range(n)) for test in tests)
        return len(splits)

    assert [n_splits(n) for n in (20, 80)] == [5, 3]


def test_learning_rate_lies_between_the_two_of_the_table():
    rates = [learning_rate(s) for s in (0.0, 0.5, 1.0)]
    assert rates[0] > rates[1] > rates[2]
    assert rates[::2] == pytest.approx([RULES["lr_unlike"], RULES["lr_like"]])
    assert learning_rate(None) == RULES["lr_like"]


def _decided(*gains):
    names = list(STRATEGIES)[1:]
    table = [Outlook(n, g, e, 10, 0.8 + g) for n, (g, e) in zip(names, gains, strict=False)]
    return decide(table, [], "", {})


def test_the_simpler_is_taken_where_the_difference_is_below_its_uncertainty():
    gain, error = 0.02, 0.02 / RULES["caution"]
    assert _decided((0, 0), (gain, 1.1 * error)).chosen == "features"
    assert _decided((0, 0), (gain, 0.9 * error)).chosen == "early"
    tie = _decided((0, 0), (0.0, 0.0))
    assert (tie.strategy, tie.runner_up) == ("features", "early")


def test_training_stages_must_bring_more_than_its_effort():
    effort = RULES["effort"]["all"]
    for gain, taken in ((0.8 * effort, "features"), (1.2 * effort, "all")):
        table = [Outlook("features", 0.0, 0.0), Outlook("all", gain, 0.0)]
        assert decide(table, [], "", {}).strategy == taken


def test_the_reasons_say_which_kind_is_taken_where_little_can_be_told():
    simple, likely = _decided((0, 0), (0.001, 0.02)), _decided((0, 0), (0.03, 0.04))
    assert simple.strategy == "features" and "the simpler one is taken" in simple.reasons[0]
    assert likely.strategy == "early" and "the likelier one is taken" in likely.reasons[0]


def test_it_abstains_where_nothing_is_separated():
    vague = _decided((0, 0), (0.1, 0.3))
    assert vague.strategy is None and "too little to tell: early and features" in vague.reasons[0]
    assert vague.chosen == "early"  # the best guess
    assert _decided((0, 0), (0.5, 0.2)).strategy == "early"


def test_confidence_is_the_probability_that_no_other_is_better_by_more_than_a_point():
    assert _decided((0, 0), (0.05, 0.025)).confidence == pytest.approx(0.9918, abs=1e-4)
    assert _decided((0, 0), (0.0, 0.0)).confidence == 1.0  # whichever is taken
    # The least over all others, not that of the runner-up alone.
    three = _decided((0, 0), (0.05, 0.01), (0.03, 0.04))
    assert three.strategy == "early"
    assert three.confidence == pytest.approx(0.767, abs=1e-3)


def test_a_recommendation_can_be_read_as_text_and_as_a_page(colours):
    X, y = colours
    found = recommend_strategy(X, y, deeper_backbone(), max_epochs=1, random_state=0)
    text, page = repr(found), found._repr_html_()
    assert "48 samples, 24 in the smallest class" in text
    assert "similarity to the network's own data" in text and "LEEP" in text
    assert all(name in text and f"<td>{name}</td>" in page for name in STRATEGIES)
    assert all(outlook.seconds > 0 for outlook in found.table)
    assert found.runner_up in STRATEGIES and found.strategy != found.runner_up
    assert found.evidence["size"].smallest == 24


def test_labels_are_escaped_on_the_page(colours):
    y = np.array(["<b>"] * 3 + ["c"] * 6)
    page = recommend_strategy(colours[0][:9], y, tiny_backbone())._repr_html_()
    assert "<b>&lt;" not in page and "&lt;b&gt;" in page


def test_folds_judge_each_row_once_by_models_that_know_two_classes():
    codes = np.repeat([0, 1, 2], [20, 20, 1])
    folds = make_folds(codes, 0)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(41))
    assert all(len(np.unique(codes[train])) > 1 for train, _ in folds)
    assert make_folds(np.array([0, 1, 2]), 0) == []
    among = np.arange(0, 41, 2)
    assert set(np.concatenate([test for _, test in make_folds(codes, 0, among)])) == set(among)


@pytest.fixture
def tried(monkeypatch):
    """Names of the strategies in the order in which folds of theirs are judged."""
    names, judge = [], study.Study.judge

    def noting(self, name, folds):
        names.append(name)
        return judge(self, name, folds)

    monkeypatch.setattr(study.Study, "judge", noting)
    return names


def test_long_training_is_tried_only_where_it_may_pay(colours, tried, monkeypatch):
    model = TransferClassifier(deeper_backbone(), max_epochs=1, random_state=0)
    gains = dict.fromkeys(RULES["gains"], (0.0, 0.0, 0.0, 0.0, 0.0))
    monkeypatch.setitem(RULES, "gains", gains)
    model.fit(*colours)
    assert not {"head", "last", "all"} & set(tried) and {"features", "early"} <= set(tried)
    tried.clear()
    monkeypatch.setitem(RULES, "gains", dict.fromkeys(gains, (1.0, 0.0, 0.0, 0.0, 1.0)))
    model.fit(*colours)
    assert {"all", "last"} <= set(tried)


@pytest.mark.parametrize(("settled", "n_folds"), [(-np.inf, 0), (np.inf, 3)])
def test_a_trial_stops_where_the_choice_is_settled(settled, n_folds, colours, tried, monkeypatch):
    monkeypatch.setitem(RULES, "settled", settled)
    monkeypatch.setitem(RULES, "worth_trying", -np.inf)
    monkeypatch.setitem(RULES, "judged_long", 21)  # of five folds of 48 rows, three judge as many
    TransferClassifier(deeper_backbone(), max_epochs=1, random_state=0).fit(*colours)
    assert tried.count("all") == n_folds


# -- layers and backbones ----------------------------------------------------------------------


def test_layers_are_probed_in_one_pass(counted):
    digits = load_digits()
    X, y = list(digits.images[:60] / 16), digits.target[:60]
    choice = probe_layers(X, y, layers=["blocks.2", "blocks.10", -2], image_size=32)
    assert counted == [60]
    assert choice.layers == ("blocks.2", "blocks.10", "dropout")
    assert choice.scores.max() > 0.5


def test_backbones_are_ranked_by_each_score(colours):
    X, y = colours
    good, other = deeper_backbone(), tiny_backbone(1)
    for score in ("probe", "logme", "h_score", "transrate", "leep", "nce"):
        found = rank_backbones(X, y, {"good": good, "other": other}, score=score)
        assert set(found.names) == {"good", "other"} and found.score == score
        assert found.scores[0] >= found.scores[1]
        assert found.best in repr(found)


def test_a_network_that_tells_nothing_is_last():
    X, y = make_blobs(60, random_state=0)
    constant = load_backbone(Vectors())
    nothing = Vectors()
    nothing.w1.data.zero_()
    candidates_ = {"nothing": load_backbone(nothing), "good": constant}
    for score in ("probe", "logme", "h_score"):
        assert rank_backbones(X, y, candidates_, score=score).best == "good"


def test_networks_without_classes_have_no_score_that_needs_them():
    X, y = make_blobs(30, random_state=0)
    found = rank_backbones(X, y, {"own": load_backbone(Vectors())}, score="leep")
    assert np.isnan(found.scores[0])


def test_networks_are_ranked_by_numbers_too(colours):
    X = colours[0]
    y = np.array([x.mean() for x in X]) + 0.01
    found = rank_backbones(X, y, {"one": deeper_backbone(), 2: tiny_backbone()}, score="logme")
    assert np.isfinite(found.scores).all() and set(found.names) == {"one", "2"}


def test_what_cannot_be_ranked_is_refused(colours):
    with pytest.raises(ValueError, match="inconsistent"):
        rank_backbones(colours[0], colours[1][:20], [tiny_backbone()])
    with pytest.raises(TypeError, match="one network"):
        rank_backbones(*colours, "efficientnet_lite0")
    with pytest.raises(ValueError, match="no network"):
        rank_backbones(*colours, [])
    with pytest.raises(ValueError, match="one of 'logme'"):
        rank_backbones(*colours, [tiny_backbone()], score="best")
    with pytest.raises(ValueError, match="give a dictionary"):
        rank_backbones(*colours, [tiny_backbone(), tiny_backbone(1)])


def test_warnings_of_trial_fits_do_not_reach_the_user(colours):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        TransferClassifier(tiny_backbone(), max_epochs=1, random_state=0).fit(*colours)


def test_one_tiny_class_does_not_decide_for_the_others(colours):
    X, y = colours
    X, y = [*X, *images(2, seed=9)], np.append(y, ["rare", "rare"])
    backbone = deeper_backbone()
    found = recommend_strategy(X, y, backbone, max_epochs=1, random_state=0)
    assert found.strategy is None and "2 samples in class 'rare'" in found.reasons[0]
    values = {outlook.name: outlook.value for outlook in found.table}
    assert values[found.chosen] == max(values.values())
    few = recommend_strategy(X[:6], y[:6], backbone, max_epochs=1, random_state=0)
    assert few.strategy is None and few.chosen == "features"


@pytest.mark.parametrize("n_rare", [2, 5])
def test_a_class_that_is_rare_among_very_many_samples_is_seen(n_rare):
    rng = np.random.default_rng(0)
    X = list(rng.integers(0, 255, (2500 + n_rare, 4, 4, 3), dtype=np.uint8))
    y = np.array(["ok"] * 2500 + ["bad"] * n_rare)
    found = recommend_strategy(X, y, deeper_backbone(), max_epochs=0, random_state=0)
    assert f"{n_rare} in the smallest class" in " ".join(found.reasons)
    for score in ("probe", "leep"):
        assert np.isfinite(rank_backbones(X, y, {"a": deeper_backbone()}, score=score).scores).all()


def test_where_a_fitted_model_runs_can_be_set_anew(colours, tmp_path):
    model = TransferClassifier(deeper_backbone(), strategy="features", random_state=0)
    model.fit(*colours)
    expected = model.predict_proba(colours[0])
    model.set_params(n_jobs=2, memory=tmp_path).predict(colours[0])
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
    shown = capsys.readouterr().out
    assert 0 < shown.count("training") + shown.count("running") + shown.count("%") < 30
