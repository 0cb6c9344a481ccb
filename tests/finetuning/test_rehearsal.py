import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sktransfer import FineTunedClassifier, load_backbone
from tests.finetuning.conftest import net_inputs, network


@pytest.mark.slow
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


class Seen(Callback):
    """Keep the rows, the codes of their classes and the weights of the batches that train."""

    def initialize(self):
        self.batches_ = []
        return self

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        if training:
            inputs, codes = batch
            self.batches_.append((inputs["x"], codes, inputs["weight"]))


def seen_rows(model):
    """Return what trained in one epoch, in the order of the sums of the rows."""
    (seen,) = (c for _, c in model.net_.callbacks_ if isinstance(c, Seen))
    rows, codes, weights = (torch.cat(part).numpy() for part in zip(*seen.batches_, strict=True))
    order = np.argsort(rows.sum(1))
    return rows[order], codes[order], weights[order]


def test_only_what_trained_is_kept_for_rehearsal(data):
    X, y = data
    weight = np.where(np.arange(len(y)) % 5 == 0, 0.0, 2.0)
    settings = {"rehearsal": 1000, "max_epochs": 1, "callbacks": [Seen()], "random_state": 0}
    model = FineTunedClassifier(load_backbone(network()), validation_fraction=0.3, **settings)
    model.fit(X, y, sample_weight=weight)
    trained = np.setdiff1d(np.flatnonzero(weight), model.validation_indices_)
    new = X[:3] + 100
    model.set_params(validation_fraction=0).partial_fit(new, y[:3])
    rows, _, weights = seen_rows(model)
    expected = net_inputs(model, np.concatenate([new, X[trained]]))
    np.testing.assert_allclose(rows, expected[np.argsort(expected.sum(1))], rtol=1e-5, atol=1e-5)
    # What is new has the weight 1.
    np.testing.assert_allclose(np.sort(weights / weights.min()), [1.0] * 3 + [2.0] * len(trained))


@pytest.mark.parametrize(
    ("class_weight", "expected"),
    [({"ant": 5.0, "bee": 1.0, "wasp": 1.0}, [2.5, 0.5, 0.5]), ("balanced", [1.25, 0.5, 1.25])],
)
def test_kept_rows_weigh_what_they_weighed_and_their_class(class_weight, expected, data):
    X, y = data
    settings = {"class_weight": class_weight, "callbacks": [Seen()], "random_state": 0}
    model = FineTunedClassifier(load_backbone(network()), rehearsal=4, max_epochs=1, **settings)
    model.fit(X, y, sample_weight=np.full(len(y), 0.5))
    new = X[:6] + 100
    model.partial_fit(new, np.repeat("bee", 6))
    rows, codes, weights = seen_rows(model)
    distances = np.abs(rows[:, None] - net_inputs(model, new)[None]).max(2).min(1)
    is_new = distances < 1e-3
    assert is_new.sum() == 6 and len(set(weights[is_new])) == 1
    assert np.bincount(codes[~is_new]).tolist() == [4, 4, 4]
    found = weights[~is_new] / weights[is_new][0]
    np.testing.assert_allclose(found, np.take(expected, codes[~is_new]), rtol=1e-5)


def test_rehearsal_needs_classes(data):
    X, y = data
    Y = np.column_stack([y == "ant", y == "bee"]).astype(int)
    with pytest.raises(ValueError, match="rehearsal= keeps rows of each class"):
        FineTunedClassifier(load_backbone(network()), rehearsal=3).fit(X, Y)
