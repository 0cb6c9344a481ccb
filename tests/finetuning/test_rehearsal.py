import numpy as np
import pytest

from sktransfer import (
    FineTunedClassifier,
    load_backbone,
)
from tests.finetuning.conftest import network


def test_rehearsal_keeps_old_classes(data):
    X, y = data
    old = y != "wasp"

    def accuracy_on_old(rehearsal):
        model = FineTunedClassifier(
            load_backbone(network()), lr=0.05, rehearsal=rehearsal, random_state=0
        )
        model.fit(X[old], y[old]).partial_fit(X[~old], y[~old])
        return model.score(X[old], y[old])

    assert accuracy_on_old(20) > accuracy_on_old(0) + 0.2


def test_only_what_trained_is_kept_for_rehearsal(data):
    X, y = data
    weight = np.where(np.arange(len(y)) % 5 == 0, 0.0, 2.0)
    model = FineTunedClassifier(
        load_backbone(network()), validation_fraction=0.3, rehearsal=1000, max_epochs=1
    ).fit(X, y, sample_weight=weight)
    kept = np.concatenate([rows for rows, _ in model._kept.values()])
    trained = np.setdiff1d(np.flatnonzero(weight), model.validation_indices_)
    expected = model._activations(X)[trained]
    assert {row.tobytes() for row in kept} == {row.tobytes() for row in expected}
    assert len(kept) == len(trained)
    assert all((weights == 2.0).all() for _, weights in model._kept.values())


@pytest.mark.parametrize("class_weight", [{"ant": 5.0, "bee": 1.0, "wasp": 1.0}, "balanced"])
def test_kept_rows_weigh_what_they_weighed_and_their_class(class_weight, data, monkeypatch):
    X, y = data
    model = FineTunedClassifier(
        load_backbone(network()), class_weight=class_weight, rehearsal=4, max_epochs=1
    ).fit(X, y, sample_weight=np.full(len(y), 0.5))
    seen, train = [], FineTunedClassifier._train

    def watched(self, module, rows, *args):
        seen.append(rows)
        return train(self, module, rows, *args)

    monkeypatch.setattr(FineTunedClassifier, "_train", watched)
    model.partial_fit(X[:6], np.repeat("bee", 6))
    found = seen[0].weight.numpy()[6:]
    expected = [2.5, 0.5, 0.5] if class_weight != "balanced" else [18 / 24, 18 / 60, 18 / 24]
    np.testing.assert_allclose(found, np.repeat(expected, 4))


def test_rehearsal_needs_classes(data):
    X, y = data
    Y = np.column_stack([y == "ant", y == "bee"]).astype(int)
    with pytest.raises(ValueError, match="rehearsal= keeps rows of each class"):
        FineTunedClassifier(load_backbone(network()), rehearsal=3).fit(X, Y)
