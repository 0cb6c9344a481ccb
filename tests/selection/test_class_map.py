"""Direct use of a network's own classes by a map that the user gives."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from sktransfer import PretrainedClassifier, TransferClassifier, load, load_backbone, save

MAP = {"cold": ["a", "b"], "warm": ["c"]}


class Right(nn.Sequential):
    """A network whose classes are the largest of the first three numbers of a row."""

    def __init__(self):
        super().__init__(nn.Linear(6, 6), nn.Linear(6, 3))
        with torch.no_grad():
            for layer, scale in ((self[0], 1.0), (self[1], 9.0)):
                layer.weight.copy_(scale * torch.eye(*layer.weight.shape))
                layer.bias.zero_()


def rows(n, seed=0):
    X = np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)
    return X, np.where(X[:, :3].argmax(1) == 2, "warm", "cold")


@pytest.fixture
def backbone():
    return load_backbone(Right().eval(), classes=list("abc"))


def test_the_map_is_a_member_and_is_preferred(backbone, tmp_path):
    X, y = rows(16)
    test, y_test = rows(400, seed=1)
    model = TransferClassifier(backbone, class_map=MAP, random_state=0).fit(X, y)
    assert model.members_[0] == "class_map" and model.weights_[0] > 0.5
    assert model.score(test, y_test) > clone(model).set_params(class_map=None).fit(X, y).score(
        test, y_test
    )
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(again.predict_proba(test), model.predict_proba(test))
    save(model, tmp_path / "model.skt")
    again = load(tmp_path / "model.skt", modules={backbone.name: Right})
    np.testing.assert_allclose(again.predict_proba(test), model.predict_proba(test))


def test_a_class_map_counts_where_nothing_can_be_judged(backbone):
    X, y = rows(40)
    some = [int(np.flatnonzero(y == label)[0]) for label in MAP]
    model = TransferClassifier(backbone, class_map=MAP, random_state=0).fit(X[some], y[some])
    weights = dict(zip(model.members_, model.weights_, strict=True))
    assert weights["class_map"] == pytest.approx(0.5)


def test_direct_use_takes_the_class_map(backbone):
    X, y = rows(30)
    used = {"cold": ["a"], "warm": ["c"]}
    more = used | {"neither": ["b"]}  # a label that is not in y
    model = TransferClassifier(backbone, strategy="direct", class_map=more).fit(X, y)
    expected = PretrainedClassifier(backbone, class_map=used).fit(X)
    np.testing.assert_allclose(model.predict_proba(X), expected.predict_proba(X))
    assert model.classes_.tolist() == ["cold", "warm"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "features", "class_map": MAP}, "not by 'features'"),
        ({"class_map": {"cold": ["a"]}}, "no classes of the network for 'warm', which is in y"),
        ({"class_map": {**MAP, "cold": ["x"]}}, "'x' is not a class of the network"),
        ({"class_map": "learn"}, "class_map"),
    ],
)
def test_maps_that_cannot_be_used(settings, message, backbone):
    with pytest.raises(ValueError, match=message):
        TransferClassifier(backbone, **settings).fit(*rows(12))


def test_entries_of_a_list_are_checked(backbone):
    X, y = rows(16)
    model = TransferClassifier([backbone, backbone], class_map=["learn", MAP])
    with pytest.raises(ValueError, match=r"class_map\[0\]='learn': give a dict or None"):
        model.fit(X, y)
