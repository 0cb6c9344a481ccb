import numpy as np
import pytest
from sklearn.datasets import load_digits, make_blobs

from sktransfer import load_backbone
from sktransfer.selection.ranking import probe_layers, rank_backbones
from tests.selection.support import deeper_backbone
from tests.support import Vectors, tiny_backbone


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
