import numpy as np
import pytest
from sklearn.datasets import load_digits, make_blobs

from sktransfer import load_backbone
from sktransfer.selection.ranking import probe_layers, rank_backbones
from tests.selection.support import deeper_backbone, noted_stage
from tests.support import Vectors, tiny_backbone


@pytest.mark.slow
def test_layers_are_probed_in_one_pass(counted):
    digits = load_digits()
    X, y = list(digits.images[:60] / 16), digits.target[:60]
    choice = probe_layers(X, y, layers=["blocks.2", "blocks.10", -2], image_size=32)
    assert counted == [60]
    assert choice.layers == ("blocks.2", "blocks.10", "dropout")
    assert choice.scores.max() > 0.5


@pytest.mark.slow
def test_backbones_are_ranked_by_each_score(colours):
    X, y = colours
    good, other = deeper_backbone(), tiny_backbone(1)
    for score in ("probe", "logme", "h_score", "transrate", "leep", "nce"):
        found = rank_backbones(X, y, {"good": good, "other": other}, score=score)
        assert set(found.names) == {"good", "other"} and found.score == score
        assert found.scores[0] >= found.scores[1]
        assert found.names[0] in repr(found)
        assert found.best(1) == [{"good": good, "other": other}[found.names[0]]]


@pytest.mark.parametrize("function", [rank_backbones, probe_layers])
def test_batches_and_bars_are_those_that_are_asked_for(function, colours, capsys):
    pytest.importorskip("rich")
    X, y = colours
    stage, _, shapes = noted_stage()
    backbone = deeper_backbone(stage)
    given = [backbone] if function is rank_backbones else backbone
    function(X, y, given, batch_size=3, verbose=1)
    sizes = [shape[0] for shape in shapes]
    assert max(sizes) == 3 and sizes.count(3) == 48 / 3  # others inspect the network
    assert "features" in capsys.readouterr().err


def test_a_network_that_tells_nothing_is_last():
    X, y = make_blobs(60, random_state=0)
    constant = load_backbone(Vectors())
    nothing = Vectors()
    nothing.w1.data.zero_()
    candidates_ = {"nothing": load_backbone(nothing), "good": constant}
    for score in ("probe", "logme", "h_score"):
        assert rank_backbones(X, y, candidates_, score=score).best(1) == [constant]


def test_networks_without_classes_have_no_score_that_needs_them():
    X, y = make_blobs(30, random_state=0)
    found = rank_backbones(X, y, {"own": load_backbone(Vectors())}, score="leep")
    assert np.isnan(found.scores[0]) and found.best(3) == []


def test_networks_are_ranked_by_numbers_too(colours):
    X = colours[0]
    y = np.array([x.mean() for x in X]) + 0.01
    found = rank_backbones(X, y, {"one": deeper_backbone(), 2: tiny_backbone()}, score="logme")
    assert np.isfinite(found.scores).all() and set(found.names) == {"one", "2"}


BAD_RANKINGS = [
    ({"backbones": 5}, TypeError, r"backbones=5"),
    ({"backbones": None}, TypeError, r"backbones=None"),
    ({"backbones": "efficientnet_lite0"}, TypeError, "one network"),
    ({"backbones": [5]}, TypeError, r"backbones\[0\]=5"),
    ({"backbones": {"mine": 5}}, TypeError, r"backbones\['mine'\]=5"),
    ({"backbones": []}, ValueError, "no network"),
    ({"score": "best"}, ValueError, r"score='best'.* one of 'logme'"),
    ({"score": 5}, ValueError, "score=5"),
    ({"score": lambda features, y: "high"}, ValueError, "score=.* returned 'high'"),
    ({"score": lambda features, y: None}, ValueError, "score=.* returned None"),
    ({"score": lambda features, y: np.ones(3)}, ValueError, "score=.* returned array"),
    ({"task": "nope"}, ValueError, "task='nope'"),
    ({"image_size": 0}, ValueError, "'image_size' parameter of rank_backbones"),
    ({"image_size": "big"}, ValueError, "'image_size' parameter of rank_backbones"),
    ({"random_state": "x"}, ValueError, "'random_state' parameter of rank_backbones"),
]


@pytest.mark.parametrize(("settings", "error", "message"), BAD_RANKINGS)
def test_an_error_names_the_parameter_of_a_ranking(settings, error, message, colours):
    with pytest.raises(error, match=message) as raised:
        rank_backbones(*colours, **{"backbones": [tiny_backbone()]} | settings)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("score", ["leep", "nce", "h_score", "transrate"])
def test_scores_of_labels_are_refused_for_numbers(score, colours):
    with pytest.raises(ValueError, match=f"score='{score}' is for labels"):
        rank_backbones(colours[0], np.linspace(0, 1, 48), [tiny_backbone()], score=score)


def test_a_score_may_come_with_its_error(colours):
    found = rank_backbones(*colours, [tiny_backbone()], score=lambda features, y: (0.5, 0.1))
    assert (found.scores[0], found.errors[0]) == (0.5, 0.1)


def test_labels_and_names_that_do_not_fit_are_refused(colours):
    with pytest.raises(ValueError, match="inconsistent"):
        rank_backbones(colours[0], colours[1][:20], [tiny_backbone()])
    with pytest.raises(ValueError, match="give a dictionary"):
        rank_backbones(*colours, [tiny_backbone(), tiny_backbone(1)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": "1"}, "'layers' parameter of probe_layers"),
        ({"layers": 3}, "'layers' parameter of probe_layers"),
        ({"layers": [1.5]}, r"layers=\[1.5\]: 1.5 is no name"),
        ({"layers": [["1"]]}, r"layers=\[\['1'\]\]: \['1'\] is no name"),
        ({"layers": []}, r"layers=\[\]"),
        ({"layers": ["nope"]}, "layer='nope'"),
        ({"random_state": "x"}, "'random_state' parameter of probe_layers"),
        ({"random_state": -3}, "'random_state' parameter of probe_layers"),
    ],
)
def test_an_error_names_the_parameter_of_a_probe(settings, message, colours):
    with pytest.raises((ValueError, TypeError), match=message):
        probe_layers(*colours, tiny_backbone(), **settings)


def test_two_keys_that_are_one_name_are_refused(colours):
    with pytest.raises(ValueError, match="backbones= are one name"):
        rank_backbones(*colours, {1: tiny_backbone(), "1": tiny_backbone(1)})


@pytest.mark.slow
def test_a_boolean_is_no_position_of_a_layer(colours):
    with pytest.raises(TypeError, match=r"layers=.*True is no"):
        probe_layers(*colours, tiny_backbone(), layers=[True])
