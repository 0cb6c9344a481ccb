import gc
import linecache
import math
import pickle
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from skorch.callbacks import Callback, EarlyStopping, EpochScoring, Freezer, Unfreezer
from torch import nn

from sktransfer import (
    Augmentation,
    FeatureStore,
    FineTunedClassifier,
    FineTunedRegressor,
    list_layers,
    load_backbone,
    load_word_vectors,
)
from sktransfer.backbones.stages import stages_of
from sktransfer.data import ClassTarget
from sktransfer.features import compute_inputs
from sktransfer.finetuning.callbacks import warmup_cosine
from sktransfer.finetuning.dataset import Batches, TrainingDataset
from sktransfer.finetuning.trainable_stages import head_inputs
from sktransfer.transferability import solve_probe
from tests.finetuning.conftest import SGD, dropout_head, net_inputs, network, tuned_network
from tests.new_process import run_in_new_process
from tests.support import NotedImages, Vectors, tiny_backbone


def states(backbone):
    return {name: t.clone() for name, t in backbone.module.state_dict().items()}


@pytest.mark.parametrize("trainable", ["head", 1, 2, "1", "all"])
def test_what_is_frozen_keeps_its_bits(trainable, data):
    backbone = load_backbone(network())
    before = states(backbone)
    settings = {"trainable": trainable, "max_epochs": 2, "random_state": 0}
    model = FineTunedClassifier(backbone, **settings).fit(*data)
    assert all(torch.equal(before[k], v) for k, v in backbone.module.state_dict().items())
    frozen, trained = model.frozen_layers_, model.trained_layers_
    assert frozen + trained == list_layers(backbone)[:-1]


@pytest.mark.parametrize("trainable", ["head", 1, "all"])
def test_before_the_first_epoch_the_network_is_the_probe(trainable, data):
    X, y = data
    codes = np.unique(y, return_inverse=True)[1]
    model = FineTunedClassifier(load_backbone(network()), trainable=trainable, max_epochs=0)
    model.fit(X, y)
    features = head_inputs(model.net_.module_, net_inputs(model, X))
    coef, intercept = solve_probe(features, codes, np.ones(len(y)), ClassTarget(np.arange(3)))
    logits = features @ coef.T + intercept
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-5)


def test_losses_are_those_of_a_plain_loop_with_the_frozen_part_inside(data):
    X, y = data
    backbone = load_backbone(network())
    settings = {"trainable": 1, "lr": 0.01, "batch_size": 16}
    settings["net_params"] = SGD | {"callbacks__schedule__warmup": 0.0}
    model = FineTunedClassifier(backbone, max_epochs=0, random_state=0, **settings).fit(X, y)
    module, codes = (
        model.net_.module_.requires_grad_(True),
        torch.as_tensor(np.searchsorted(model.classes_, y)),
    )
    prefix = nn.Sequential(*list(backbone.module.children())[:1]).eval()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(model.net_.iterator_train__seed)
    n_steps, step, expected = 3 * 6, 0, []
    for _ in range(3):
        order = torch.randperm(len(X), generator=generator)
        torch.randint(2**31, (1,), generator=generator)
        losses = []
        for index in order.split(16):
            with torch.no_grad():
                x = prefix(torch.as_tensor(X)[index])
            optimizer.param_groups[0]["lr"] = 0.01 * 0.5 * (1 + np.cos(np.pi * step / n_steps))
            loss = nn.functional.cross_entropy(module(x), codes[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item() * len(index))
            step += 1
        expected.append(sum(losses) / len(X))
    fitted = FineTunedClassifier(backbone, max_epochs=3, random_state=0, **settings).fit(X, y)
    np.testing.assert_allclose([h["train_loss"] for h in fitted.history_], expected, atol=1e-4)


def test_one_seed_gives_one_model_and_leaves_the_global_generator_alone(data):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    settings = {"trainable": "all", "head": dropout_head, "random_state": 3, "max_epochs": 2}
    one = FineTunedClassifier(load_backbone(network()), **settings).fit(*data)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    two = FineTunedClassifier(load_backbone(network()), **settings).fit(*data)
    assert np.array_equal(one.predict_proba(data[0]), two.predict_proba(data[0]))


def test_the_best_epoch_is_restored_and_the_probe_is_a_candidate(data):
    settings = {"lr": 5.0, "validation_fraction": 0.3, "max_epochs": 3, "random_state": 0}
    model = FineTunedClassifier(load_backbone(network()), trainable="all", **settings)
    with pytest.warns(UserWarning, match="The weights before training are kept"):
        model.fit(*data)
    assert model.best_epoch_ == 0  # this learning rate only spoils
    assert len(model.validation_indices_) == 27


def test_a_loss_that_is_not_finite_says_what_to_try(data):
    model = FineTunedClassifier(load_backbone(network()), lr=1e30, net_params=SGD)
    with pytest.raises(FloatingPointError, match=r"in epoch \d+ at a learning rate of .* Try lr="):
        model.fit(*data)


def test_a_new_label_keeps_the_rows_of_the_others(data):
    X, y = data
    old = y != "wasp"
    settings = {"max_epochs": 0, "random_state": 0}
    model = FineTunedClassifier(load_backbone(network()), **settings).fit(X[old], y[old])
    before = model.net_.module_.head.linear.weight.detach().clone()
    model.partial_fit(X, y)
    assert model.classes_.tolist() == ["ant", "bee", "wasp"]
    assert torch.equal(model.net_.module_.head.linear.weight[:2], before)
    grown = FineTunedClassifier(
        FineTunedClassifier(load_backbone(network()), **settings).fit(X[old], y[old]), **settings
    ).fit(X, y)
    assert torch.equal(grown.net_.module_.head.linear.weight[:2], before)


def test_a_pickle_opens_in_a_new_process(tmp_path, data):
    model = FineTunedClassifier(trainable=1, max_epochs=1, image_size=32, random_state=0)
    images = np.random.RandomState(0).randint(0, 255, (12, 32, 32, 3)).astype(np.uint8)
    model.fit(images, ["a", "b"] * 6)
    changed = sum(a.nbytes for a in tuned_network(model).changed_tensors().values())
    head = sum(t.numel() * 4 for t in model.net_.module_.head.parameters())
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    assert (tmp_path / "model.pkl").stat().st_size < 1.05 * (changed + head)
    np.savez(tmp_path / "x.npz", images=images, expected=model.predict_proba(images))
    run_in_new_process(f"""
import pickle, numpy as np, skorch
d = np.load({str(tmp_path / "x.npz")!r})
model = pickle.load(open({str(tmp_path / "model.pkl")!r}, "rb"))
# The tests run on one thread, this process on all: sums differ in their last bits.
np.testing.assert_allclose(model.predict_proba(d["images"]), d["expected"], atol=1e-5)
assert isinstance(model.net_, skorch.NeuralNetClassifier)
""")


def test_several_labels_a_sample(data):
    X, y = data
    Y = np.column_stack([y == "ant", y != "bee"]).astype(int)
    settings = {"trainable": "all", "lr": 0.01, "max_epochs": 6, "random_state": 0}
    model = FineTunedClassifier(load_backbone(network()), **settings).fit(X, Y)
    assert model.predict(X).shape == Y.shape
    assert (model.predict(X) == Y).mean() > 0.8


@pytest.mark.slow
def test_a_grid_search_in_two_processes(data):
    model = FineTunedClassifier(load_backbone(Vectors()), max_epochs=1, random_state=0)
    search = GridSearchCV(model, {"trainable": ["head", "all"]}, cv=2, error_score="raise")
    with joblib.parallel_config("multiprocessing", n_jobs=2):
        search.fit(*data)
    assert min(search.cv_results_["mean_test_score"]) > 0.4 and search.score(*data) > 0.5


class ShortMemory(nn.CrossEntropyLoss):
    """A loss that is out of memory for more than ``most`` rows, in training or otherwise."""

    def __init__(self, most=8, *, training=True):
        super().__init__()
        self.most, self.in_training = most, training

    def forward(self, output, target):
        if self.training == self.in_training and len(output) > self.most:
            raise torch.OutOfMemoryError("no room")
        return super().forward(output, target)


def test_out_of_memory_goes_on_in_parts_with_the_same_losses(data):
    backbone = load_backbone(network())
    settings = {"trainable": 2, "max_epochs": 2, "random_state": 0, "batch_size": 30}
    expected = FineTunedClassifier(backbone, **settings).fit(*data)
    with pytest.warns(UserWarning, match="does not fit into the device's memory") as caught:
        found = FineTunedClassifier(backbone, loss=ShortMemory(), **settings).fit(*data)
    assert len([w for w in caught if "does not fit" in str(w.message)]) == 1
    losses = [[h["train_loss"] for h in m.history_] for m in (expected, found)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_the_tuned_network_as_a_transformer(data):
    settings = {"trainable": 1, "max_epochs": 2, "random_state": 0}
    model = FineTunedClassifier(load_backbone(network()), **settings).fit(*data)
    features = model.to_features().fit_transform(data[0])
    logits = features @ model.net_.module_.head.linear.weight.detach().numpy().T
    logits += model.net_.module_.head.linear.bias.detach().numpy()
    assert (model.classes_[logits.argmax(axis=1)] == model.predict(data[0])).all()


def test_a_model_grows_twice_on_a_network_with_a_stage_called_head(data):
    X, y = data[0][:12], np.repeat(["a", "b", "c", "d"], 3)
    stages = zip(["first", "head", "active", "classes"], network(), strict=True)
    model = load_backbone(nn.Sequential(OrderedDict(stages)))
    for n in (6, 9, 12):
        before = None if n == 6 else model
        model = FineTunedClassifier(model, max_epochs=0, random_state=0).fit(X[:n], y[:n])
        assert "head" in list_layers(model.backbone_)
        if before is not None:
            rows = model.net_.module_.head.linear.weight[: len(before.classes_)]
            assert torch.equal(rows, before.net_.module_.head.linear.weight)
    assert model.classes_.tolist() == ["a", "b", "c", "d"]
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(again.predict_proba(X), model.predict_proba(X), atol=1e-6)


@pytest.fixture
def small_images():
    images = np.random.RandomState(0).randint(0, 120, (16, 24, 24, 3)).astype(np.uint8)
    images[::2] += 100
    return list(images), np.array(["bright", "dark"] * 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("augment", "n_views"), [("light", 1), ("light", None), ("strong", 3), ("strong", None)]
)
def test_augmented_views_train_and_are_the_same_for_one_seed(augment, n_views, small_images):
    augment = Augmentation(augment, n_views=n_views)
    settings = {"backbone": tiny_backbone(), "max_epochs": 2, "random_state": 0}
    one, two, plain = (
        FineTunedClassifier(augment=views, **settings).fit(*small_images)
        for views in (augment, augment, None)
    )
    losses = [[h["train_loss"] for h in m.history_] for m in (one, two, plain)]
    assert losses[0] == losses[1] != losses[2]


def test_fixed_views_come_from_the_store_the_second_time(small_images, tmp_path, counted):
    settings = {"augment": Augmentation(n_views=2), "max_epochs": 1, "memory": tmp_path}
    settings["backbone"] = tiny_backbone()
    FineTunedClassifier(random_state=0, **settings).fit(*small_images)
    n_entries = len(FeatureStore(tmp_path))
    assert n_entries >= 2 * len(small_images[0])
    counted.clear()
    FineTunedClassifier(random_state=1, **settings).fit(*small_images)
    assert len(FeatureStore(tmp_path)) == n_entries
    assert sum(counted) < n_entries  # the trained stages alone


def test_augmentation_needs_images(data):
    with pytest.raises(ValueError, match="augment='light' needs images"):
        FineTunedClassifier(load_backbone(network()), augment="light").fit(*data)


def test_batch_norm_keeps_its_statistics_unless_asked(data):
    statistics = {}
    for train_batch_norm in (False, True):
        model = FineTunedClassifier(
            network(), trainable="all", train_batch_norm=train_batch_norm, max_epochs=2
        ).fit(*data)
        (norm,) = (m for m in model.net_.module_.modules() if isinstance(m, nn.BatchNorm1d))
        statistics[train_batch_norm] = norm.running_mean
    assert torch.equal(statistics[False], torch.zeros(16))
    assert not torch.equal(statistics[True], torch.zeros(16))


def test_learning_rates_fall_towards_the_input(data):
    model = FineTunedClassifier(
        load_backbone(network()), trainable="all", lr=0.1, layer_decay=0.5, max_epochs=1
    ).fit(*data)
    rates = [group["initial_lr"] for group in model.net_.optimizer_.param_groups if group["params"]]
    head_first = sorted(rates, reverse=True)
    assert head_first[0] == 0.1
    assert all(rate / 0.1 == 0.5 ** round(np.log2(0.1 / rate)) for rate in head_first)
    assert len(set(rates)) == len(rates) > 2


def test_stages_are_unfrozen_one_an_epoch(data):
    weights = []

    class Watch(Callback):
        def on_epoch_end(self, net, **kwargs):
            weights.append([p.detach().clone() for p in net.module_.body[0].parameters()])

    FineTunedClassifier(
        load_backbone(network()),
        trainable=1,
        max_epochs=2,
        callbacks=[Freezer("body.0.*"), Unfreezer("body.0.*", at=2), Watch()],
    ).fit(*data)
    original = list(network()[1].parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights[0], original, strict=True))
    assert not torch.equal(weights[1][0], original[0])


def test_class_weight_and_sample_weight_shift_the_probe(data):
    X, y = data
    settings = {"backbone": load_backbone(network()), "max_epochs": 0}
    plain = FineTunedClassifier(**settings).fit(X, y).predict_proba(X)[:, 0].mean()
    heavy = {"ant": 20, "bee": 1, "wasp": 1}
    by_class = FineTunedClassifier(class_weight=heavy, **settings).fit(X, y).predict_proba(X)
    weight = np.where(y == "ant", 20, 1)
    by_sample = FineTunedClassifier(**settings).fit(X, y, sample_weight=weight).predict_proba(X)
    assert by_class[:, 0].mean() > plain + 0.1
    np.testing.assert_allclose(by_class, by_sample, atol=1e-6)


def test_sample_weight_is_routed(data):
    X, y = data
    weight = np.where(y == "ant", 20.0, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        model = FineTunedClassifier(load_backbone(network()), max_epochs=0)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        routed = make_pipeline(scaler, model.set_fit_request(sample_weight=True))
        found = routed.fit(X, y, sample_weight=weight).predict_proba(X)
    expected = model.fit(StandardScaler().fit_transform(X), y, sample_weight=weight)
    np.testing.assert_allclose(found, expected.predict_proba(StandardScaler().fit_transform(X)))


def test_a_tuned_classifier_is_calibrated_and_votes(data):
    model = FineTunedClassifier(load_backbone(network()), max_epochs=1, random_state=0)
    assert CalibratedClassifierCV(model, cv=2).fit(*data).score(*data) > 0.5
    voting = VotingClassifier([("tuned", model), ("line", LogisticRegression())], voting="soft")
    assert voting.fit(*data).score(*data) > 0.5


def test_a_progress_bar_of_scikit_learn_counts_epochs(data, capsys):
    callback = pytest.importorskip("sklearn.callback")
    model = FineTunedClassifier(load_backbone(network()), max_epochs=3)
    model.set_callbacks(callback.ProgressBar()).fit(*data)
    assert "FineTunedClassifier" in capsys.readouterr().out


def test_callbacks_of_scikit_learn_get_a_complete_classifier_at_the_end_of_fit(data):
    pytest.importorskip("sklearn.callback")
    rows = []

    class Noted:
        def setup(self, estimator, context): ...

        def teardown(self, estimator, context): ...

        def on_fit_task_begin(self, estimator, context): ...

        def on_fit_task_end(self, estimator, context):
            if context.parent is None:
                rows.append(set(estimator.to_backbone().label_rows))

    X, y = data
    model = FineTunedClassifier(load_backbone(network()), max_epochs=1).set_callbacks(Noted())
    fewer = y != y[0]
    model.fit(X[fewer], y[fewer]).fit(X, y)
    assert rows == [set(y[fewer]), set(y)]


def test_warm_start_goes_on(data):
    settings = {"net_params": SGD, "lr": 0.01, "head_init": "random", "random_state": 0}
    settings["max_epochs"] = 8
    warm = FineTunedClassifier(load_backbone(network()), warm_start=True, **settings)
    first = [h["train_loss"] for h in warm.fit(*data).history_]
    again = [h["train_loss"] for h in warm.fit(*data).history_]
    assert again[0] < first[-1] + 0.05 < first[0]
    cold = FineTunedClassifier(load_backbone(network()), **settings)
    assert [h["train_loss"] for h in cold.fit(*data).fit(*data).history_] == first


def test_one_class_one_sample_and_a_missing_class(data):
    X, y = data
    model = FineTunedClassifier(load_backbone(network()), max_epochs=1)
    for n in (5, 1):
        with pytest.warns(UserWarning, match="one class only"):
            model.fit(X[:n], ["only"] * n)
        assert (model.predict(X) == "only").all()
    model.partial_fit(X[y != "wasp"], y[y != "wasp"], classes=["ant", "bee", "wasp", "only"])
    assert model.classes_.tolist() == ["ant", "bee", "only", "wasp"]
    with pytest.raises(ValueError, match="0 sample"):
        model.fit(X[:0], y[:0])


def test_warm_start_with_another_cut_is_refused(data):
    model = FineTunedClassifier(network(), warm_start=True, max_epochs=1).fit(*data)
    with pytest.raises(ValueError, match="trainable: changed since the fit"):
        model.set_params(trainable=1).fit(*data)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_fit_that_fails_leaves_the_model_as_it_was(method, data):
    X, y = data
    model = FineTunedClassifier(network(), max_epochs=1, random_state=0).fit(X, y)
    before = model.predict_proba(X)
    model.set_params(net_params=SGD, lr=1e30, trainable="head")
    with pytest.raises(FloatingPointError):
        getattr(model, method)(X, np.where(y == "ant", "aardvark", y))
    assert model.classes_.tolist() == ["ant", "bee", "wasp"]
    assert np.array_equal(model.predict_proba(X), before)


def test_a_label_that_was_only_announced_is_learned_when_it_comes(data):
    X, y = data
    old = y != "wasp"
    model = FineTunedClassifier(load_backbone(network()), max_epochs=1, random_state=0)
    model.partial_fit(X[old], y[old], classes=["ant", "bee", "wasp"]).partial_fit(X, y)
    assert (model.predict(X[~old]) == "wasp").mean() > 0.3


def test_labels_of_another_kind_are_refused(data):
    X, y = data
    model = FineTunedClassifier(load_backbone(network()), max_epochs=0).fit(X, y)
    with pytest.raises(ValueError, match="Mix of label input types"):
        model.partial_fit(X[:3], [1, 2, 1])
    one_hot = np.eye(3, dtype=int)[np.unique(y, return_inverse=True)[1]]
    with (
        pytest.warns(UserWarning, match="Each row of y has a single 1"),
        pytest.raises(ValueError, match="not what this model was fitted for"),
    ):
        model.partial_fit(X, one_hot)
    assert model.classes_.tolist() == ["ant", "bee", "wasp"]


def test_a_head_with_another_number_of_outputs_is_refused(data):
    model = FineTunedClassifier(load_backbone(network()), head=lambda i, o: nn.Linear(i, 10))
    with pytest.raises(ValueError, match=r"head= gives outputs of shape \(1, 10\).*\(1, 3\)"):
        model.fit(*data)


class Backwards(nn.Module):
    """A head whose layers are registered in the opposite order to that in which they run."""

    def __init__(self, n_features, n_outputs):
        super().__init__()
        self.out = nn.Linear(8, n_outputs, bias=False)
        self.hidden = nn.Linear(n_features, 8)

    def forward(self, x):
        return self.out(torch.relu(self.hidden(x)))


def test_a_head_of_any_order_grows(data):
    X, y = data
    model = FineTunedClassifier(load_backbone(network()), head=Backwards, max_epochs=1)
    model.fit(X[y != "wasp"], y[y != "wasp"])
    assert set(model.partial_fit(X, y).predict_proba(X[:2]).shape) == {2, 3}


@pytest.mark.parametrize("head", ["mlp", Backwards])
def test_only_a_linear_head_begins_as_the_probe(head, data):
    model = FineTunedClassifier(load_backbone(network()), head=head, head_init="probe")
    with pytest.raises(ValueError, match=r"must be one torch\.nn\.Linear"):
        model.fit(*data)


def norm_head(n_features, n_outputs):
    return nn.Sequential(nn.BatchNorm1d(n_features), nn.Linear(n_features, n_outputs))


@pytest.mark.parametrize("settings", [{"head": norm_head}, {"train_batch_norm": True}])
def test_batch_norm_that_learns_meets_no_batch_of_one_row(settings, data):
    X, y = data
    settings = {"trainable": "all", "batch_size": 89, "max_epochs": 2, **settings}
    model = FineTunedClassifier(load_backbone(network()), random_state=0, **settings).fit(X, y)
    norms = [m for m in model.net_.module_.modules() if isinstance(m, nn.BatchNorm1d)]
    learned = [m for m in norms if m.num_batches_tracked > 0]
    assert len(learned) == 1
    assert model.predict(X).shape == y.shape


class FunctionalDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 64), nn.Linear(64, 2)

    def forward(self, x):
        x = nn.functional.dropout(torch.relu(self.first(x)), 0.5, self.training)
        return self.last(x)


def test_dropout_called_as_a_function_is_on_while_training_and_off_afterwards(data):
    model = FineTunedClassifier(load_backbone(FunctionalDropout()), trainable="all", max_epochs=0)
    module = model.fit(*data).net_.module_
    X = torch.from_numpy(data[0])
    body = nn.Sequential(*module.body[:-1])
    assert torch.equal(body.eval()(X), body.eval()(X))
    assert not torch.equal(body.train()(X), body.train()(X))


def test_the_features_of_a_tuned_network_are_the_input_of_any_head(data):
    X, y = data

    class Plain(nn.Module):
        def __init__(self, n_features, n_outputs):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(n_features, n_outputs))

        def forward(self, x):
            return x @ self.weight

    model = FineTunedRegressor(load_backbone(network()), head=Plain, max_epochs=1)
    features = model.fit(X, np.arange(len(y), dtype=float)).to_features().fit_transform(X)
    assert features.shape == (len(y), 12)


@pytest.mark.slow
def test_networks_are_cut_and_trained_in_several_threads_at_once(data):
    expected = list_layers(load_backbone(network()))
    backbones = [load_backbone(network()) for _ in range(12)]
    with ThreadPoolExecutor(4) as pool:
        assert all(layers == expected for layers in pool.map(list_layers, backbones))
    settings = {"trainable": "all", "head": dropout_head, "max_epochs": 2, "random_state": 0}
    state = torch.get_rng_state()
    alone = cross_validate(FineTunedClassifier(network(), **settings), *data, cv=3)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        together = cross_validate(FineTunedClassifier(network(), **settings), *data, cv=3)
    assert np.array_equal(alone["test_score"], together["test_score"])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.slow
def test_one_seed_gives_one_model_in_several_threads(data):
    backbone = load_backbone(network())

    def probabilities(_):
        model = FineTunedClassifier(backbone, head=dropout_head, max_epochs=3, random_state=0)
        return model.fit(*data).predict_proba(data[0])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(probabilities, range(6)))
    assert all(np.array_equal(one, found[0]) for one in found)


def test_views_made_in_threads_do_not_wait_for_the_training_that_waits_for_them(small_images):
    settings = {"augment": Augmentation(n_views=None), "max_epochs": 1, "random_state": 0}
    settings |= {"backbone": tiny_backbone(), "head": dropout_head}
    one, two = (
        FineTunedClassifier(n_jobs=n_jobs, **settings).fit(*small_images) for n_jobs in (None, 2)
    )
    assert one.history_[0]["train_loss"] == two.history_[0]["train_loss"]


def test_layer_decay_counts_stages_with_parameters_from_the_head_down(data):
    model = FineTunedClassifier(
        load_backbone(network()), trainable="all", lr=0.1, layer_decay=0.8, max_epochs=1
    ).fit(*data)
    rates = [group["initial_lr"] for group in model.net_.optimizer_.param_groups if group["params"]]
    n = len(rates)
    assert n > 2
    np.testing.assert_allclose(rates, [0.1 * 0.8 ** (n - 1 - i) for i in range(n)])


def test_weights_that_are_not_finite_after_the_last_step_are_an_error(data):
    X, y = data

    class Spoil(Callback):
        def on_epoch_end(self, net, **kwargs):
            next(net.module_.parameters()).data.fill_(float("nan"))

    model = FineTunedClassifier(load_backbone(network()), max_epochs=1, callbacks=[Spoil()])
    with pytest.raises(FloatingPointError, match=r"Weights are NaN .* in epoch 1 .* Try lr="):
        model.fit(X, y)


def test_infinite_buffers_of_a_network_are_its_own(data):
    module = network()
    module[1].register_buffer("mask", torch.full((3,), -torch.inf))
    model = FineTunedClassifier(load_backbone(module), trainable=1, max_epochs=1).fit(*data)
    assert np.isfinite(model.predict_proba(data[0])).all()
    assert model.backbone_.module[1].mask.tolist() == [-np.inf] * 3


def test_callbacks_are_copied(data):
    mine = EarlyStopping(monitor="train_loss", patience=2)
    before = dict(vars(mine))
    settings = {"callbacks": [("mine", mine)], "max_epochs": 2}
    model = FineTunedClassifier(load_backbone(network()), **settings).fit(*data)
    assert vars(mine) == before
    assert hasattr(dict(model.net_.callbacks_)["mine"], "misses_")


def test_scores_of_skorch_are_those_of_the_labels(data):
    class Labels(Callback):
        def on_batch_end(self, net, batch=None, **kwargs):
            assert batch[1].ndim == 1

    scores = [
        EpochScoring("accuracy", lower_is_better=False, name="held"),
        EpochScoring("roc_auc_ovr", lower_is_better=False, name="auc"),
        EpochScoring("accuracy", lower_is_better=False, on_train=True, name="shown"),
        EpochScoring(lambda net, X, y=None: len(net.predict(X)), name="n"),
        Labels(),
    ]
    X, y = data
    model = FineTunedClassifier(
        load_backbone(network()),
        head_init="random",
        lr=0.01,
        validation_fraction=0.3,
        max_epochs=1,
        callbacks=scores,
        random_state=0,
    ).fit(X, y)
    row, held = model.history_[0], model.validation_indices_
    assert model.best_epoch_ == 1
    assert row["held"] == model.score(X[held], y[held])
    assert row["auc"] > 0.5
    assert 0 < row["shown"] <= 1
    assert row["n"] == len(held)


def test_the_net_predicts_from_activations(data):
    X, y = data
    model = FineTunedClassifier(load_backbone(network()), trainable=1, max_epochs=1).fit(X, y)
    found = model.net_.predict_proba(net_inputs(model, X))
    np.testing.assert_allclose(found, model.predict_proba(X), atol=1e-5)
    regressor = FineTunedRegressor(load_backbone(network()), max_epochs=1).fit(X, X[:, 0])
    assert regressor.net_.predict(net_inputs(regressor, X)).shape == (len(X), 1)


def linear_head(n_features, n_outputs):
    return nn.Linear(n_features, n_outputs)


def last_rows(model, n):
    layers = [m for m in model.net_.module_.head.modules() if isinstance(m, nn.Linear)]
    return layers[-1].weight[:n]


@pytest.mark.parametrize("head", ["linear", "mlp", linear_head, dropout_head])
def test_a_model_grows_with_any_head(head, data):
    X, y = data
    old = y != "wasp"
    two = FineTunedClassifier(load_backbone(network()), head=head, max_epochs=3, random_state=0)
    two.fit(X[old], y[old])
    grown = FineTunedClassifier(two, head=head, max_epochs=0, random_state=1)
    grown.fit(X, y)
    assert torch.equal(last_rows(grown, 2), last_rows(two, 2))


def test_a_model_does_not_grow_into_a_head_of_another_kind(data):
    X, y = data
    two = FineTunedClassifier(load_backbone(network()), head="mlp", max_epochs=1)
    two.fit(X[y != "wasp"], y[y != "wasp"])
    with pytest.raises(ValueError, match=r"head of another kind.* head_init='random'"):
        FineTunedClassifier(two).fit(X, y)
    anew = FineTunedClassifier(two, head_init="probe", max_epochs=0).fit(X, y)
    assert anew.net_.module_.head.linear.in_features == 12


def test_labels_are_known_again_by_their_value(data):
    X, y = data
    codes = np.unique(y, return_inverse=True)[1]
    settings = {"max_epochs": 0, "random_state": 0}
    two = FineTunedClassifier(load_backbone(network()), **settings).fit(
        X[codes < 2], codes[codes < 2]
    )
    as_float = FineTunedClassifier(two, **settings).fit(X, codes.astype(float))
    assert torch.equal(last_rows(as_float, 2), last_rows(two, 2))
    as_text = FineTunedClassifier(two, **settings).fit(X, codes.astype(str))
    assert not torch.equal(last_rows(as_text, 2), last_rows(two, 2))


def test_a_row_that_nothing_taught_is_not_carried(data):
    X, y = data
    old = y != "wasp"
    settings = {"max_epochs": 0, "random_state": 0}
    announced = FineTunedClassifier(load_backbone(network()), **settings)
    announced.partial_fit(X[old], y[old], classes=["ant", "bee", "wasp"])
    weightless = FineTunedClassifier(load_backbone(network()), **settings)
    weightless.fit(X, y, sample_weight=old.astype(float))
    for model in (announced, weightless):
        grown = FineTunedClassifier(model, **settings).fit(X, y)
        assert torch.equal(last_rows(grown, 2), last_rows(model, 2))
        assert (grown.predict(X[~old]) == "wasp").mean() > 0.3


def test_a_fitted_model_is_shared_by_the_clones_of_what_grows_from_it(data):
    X, y = data
    two = FineTunedClassifier(load_backbone(network()), max_epochs=1, random_state=0)
    two.fit(X[y != "wasp"], y[y != "wasp"])
    grown = FineTunedClassifier(two, max_epochs=1, random_state=0)
    assert clone(make_pipeline(StandardScaler(), grown))[-1].backbone is two
    search = GridSearchCV(grown, {"lr": [1e-4, 1e-3]}, cv=2, error_score="raise").fit(X, y)
    assert search.best_estimator_.backbone_ is two.to_backbone()
    assert not hasattr(clone(two), "classes_")
    with pytest.raises(NotFittedError, match=r"give its to_backbone\(\)"):
        FineTunedClassifier(clone(two)).fit(X, y)


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trainable", "all"),
        ("head", "mlp"),
        ("image_size", 8),
        ("weights", None),
        ("backbone", nn.Linear(6, 2)),
    ],
)
def test_what_going_on_cannot_change_is_refused_by_name(name, value, warm_start, data):
    model = FineTunedClassifier(load_backbone(network()), warm_start=warm_start, max_epochs=1)
    model.fit(*data).set_params(**{name: value})
    with pytest.raises(ValueError, match=f"^{name}: changed since the fit"):
        (model.fit if warm_start else model.partial_fit)(*data)


def test_another_object_with_the_same_network_is_the_same_backbone(data):
    model = FineTunedClassifier(load_backbone(network()), max_epochs=1).fit(*data)
    model = pickle.loads(pickle.dumps(model)).partial_fit(*data)
    model.set_params(backbone=load_backbone(network()), lr=1e-3).partial_fit(*data)
    with pytest.raises(ValueError, match="requires y to be passed"):
        model.partial_fit(data[0], None)


def test_validation_runs_in_parts_where_memory_is_short(data):
    settings = {"trainable": 1, "validation_fraction": 0.5, "max_epochs": 2, "random_state": 0}
    backbone = load_backbone(network())
    expected = FineTunedClassifier(backbone, **settings).fit(*data)
    found = FineTunedClassifier(backbone, loss=ShortMemory(training=False), **settings)
    with pytest.warns(UserWarning, match="with the same result"):
        found.fit(*data)
    losses = [[h["valid_loss"] for h in model.history_] for model in (expected, found)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


class Counting(Callback):
    """Count what skorch tells its callbacks."""

    def initialize(self):
        self.counts_ = dict.fromkeys(["on_epoch_begin", "on_batch_end", "on_grad_computed"], 0)
        return self

    def notify(self, event):
        self.counts_[event] += 1

    def on_epoch_begin(self, net, **kwargs):
        self.notify("on_epoch_begin")

    def on_batch_end(self, net, **kwargs):
        self.notify("on_batch_end")

    def on_grad_computed(self, net, **kwargs):
        self.notify("on_grad_computed")


def test_where_memory_gets_short_later_only_that_step_is_run_again(data):
    steps = []

    class ShortLater(nn.CrossEntropyLoss):
        def forward(self, output, target):
            if self.training:
                steps.append(len(output))
                if len(steps) > 4 and len(output) > 10:
                    raise torch.OutOfMemoryError("no room")
            return super().forward(output, target)

    backbone = load_backbone(network())
    settings = {"trainable": 1, "max_epochs": 3, "batch_size": 20, "random_state": 0}
    expected = FineTunedClassifier(backbone, **settings).fit(*data)
    found = FineTunedClassifier(backbone, loss=ShortLater(), callbacks=[Counting()], **settings)
    with pytest.warns(UserWarning, match="with the same result"):
        found.fit(*data)
    n_batches = 3 * math.ceil(len(data[0]) / 20)
    (counting,) = (c for _, c in found.net_.callbacks_ if isinstance(c, Counting))
    assert counting.counts_ == {
        "on_epoch_begin": 3,
        "on_batch_end": n_batches,
        "on_grad_computed": n_batches,
    }
    n_divided = n_batches - 4  # into two micro-batches, but for the last ones of ten rows
    assert n_batches + 1 < len(steps) <= n_batches + 1 + n_divided
    losses = [[h["train_loss"] for h in model.history_] for model in (expected, found)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_memory_that_is_short_for_batch_norm_that_learns_is_an_error(data):
    settings = {"trainable": "all", "train_batch_norm": True, "loss": ShortMemory()}
    model = FineTunedClassifier(load_backbone(network()), **settings)
    with pytest.raises(torch.OutOfMemoryError, match="Set a smaller batch_size"):
        model.fit(*data)


def test_parts_of_a_batch_draw_other_dropout_and_say_so(data):
    settings = {"head": dropout_head, "max_epochs": 1, "loss": ShortMemory()}
    model = FineTunedClassifier(load_backbone(network()), **settings)
    with pytest.warns(UserWarning, match="except for random numbers"):
        model.fit(*data)


class InPlace(nn.Sequential):
    """A network whose first step changes its input."""

    def __init__(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            super().__init__(
                nn.SiLU(inplace=True), nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)
            )


@pytest.mark.parametrize("trainable", ["head", 1, "all"])
def test_a_network_that_works_in_place_leaves_samples_as_they_are(trainable, data):
    X, y = data
    before = X.copy()
    backbone = load_backbone(InPlace())
    settings = {"trainable": trainable, "max_epochs": 2, "lr": 0.01, "random_state": 0}
    model = FineTunedClassifier(backbone, **settings).fit(X, y)
    assert np.array_equal(X, before)
    turned = model.predict_proba(X[::-1])[::-1]
    assert np.array_equal(X, before)
    np.testing.assert_allclose(turned, model.predict_proba(X), atol=1e-6)
    with pytest.warns(UserWarning, match="with the same result"):
        divided = FineTunedClassifier(backbone, loss=ShortMemory(), **settings).fit(X, y)
    np.testing.assert_allclose(divided.predict_proba(X), model.predict_proba(X), atol=1e-4)


def test_a_later_fit_runs_its_batches_whole_again(data):
    settings = {"trainable": "all", "max_epochs": 1, "warm_start": True, "random_state": 0}
    settings |= {"batch_size": 32}
    backbone = load_backbone(network())
    expected = FineTunedClassifier(backbone, **settings).fit(*data)
    found = FineTunedClassifier(backbone, loss=ShortMemory(), **settings)
    with pytest.warns(UserWarning, match="with the same result"):
        found.fit(*data)
    for model in (expected, found):
        model.set_params(train_batch_norm=True, loss="auto").fit(*data)
        assert model.net_.most_rows == 32
    proba = found.predict_proba(data[0])
    np.testing.assert_allclose(proba, expected.predict_proba(data[0]), atol=1e-4)
    counts = [m for name, m in found.net_.module_.state_dict().items() if "num_batches" in name]
    assert [int(count) for count in counts] == [math.ceil(90 / 32)]


def test_validation_runs_in_parts_beside_batch_norm_that_learns(data):
    settings = {"validation_fraction": 0.5, "max_epochs": 1, "train_batch_norm": True}
    settings |= {"trainable": "all", "loss": ShortMemory(training=False)}
    with pytest.warns(UserWarning, match="with the same result"):
        FineTunedClassifier(load_backbone(network()), **settings).fit(*data)


def test_norms_that_track_statistics_see_whole_batches(data):
    def head(n_features, n_outputs):
        rows = nn.Unflatten(1, (1, n_features))
        norm = nn.InstanceNorm1d(1, track_running_stats=True)
        return nn.Sequential(rows, norm, nn.Flatten(), nn.Linear(n_features, n_outputs))

    with pytest.raises(torch.OutOfMemoryError, match="Set a smaller batch_size"):
        FineTunedClassifier(load_backbone(network()), head=head, loss=ShortMemory()).fit(*data)


def test_the_schedule_ends_where_a_last_row_joins_another_batch(data):
    X, y = data
    settings = {"trainable": "all", "batch_size": 32, "max_epochs": 5, "random_state": 0}
    model = FineTunedClassifier(load_backbone(network()), train_batch_norm=True, **settings)
    model.set_params(callbacks=[Rates()]).fit(X[:33], y[:33])
    (rates,) = (c.rates_ for _, c in model.net_.callbacks_ if isinstance(c, Rates))
    assert len(rates) == 5 and rates[-1] < 0.1 * max(rates)
    assert (
        len(Batches(TrainingDataset([X[:33]], np.zeros(33), np.ones(33)), 32, in_pairs=True)) == 1
    )
    assert len(Batches(TrainingDataset([X[:4]], np.zeros(4), np.ones(4)), 1, in_pairs=True)) == 3


class Rates(Callback):
    """Note the learning rate of the last stage at each step."""

    def initialize(self):
        self.rates_ = []
        return self

    def on_batch_end(self, net, training=None, **kwargs):
        self.rates_.append(net.optimizer_.param_groups[-1]["lr"])


@pytest.mark.parametrize("values", [(-1, 1), (0, 2), (1, 2)])
def test_an_indicator_matrix_of_other_values_is_refused(data, values):
    y = np.random.RandomState(0).choice(values, (90, 3))
    with pytest.raises(ValueError, match="indicator matrix of 0 and 1"):
        FineTunedClassifier(load_backbone(network())).fit(data[0], y)


@pytest.fixture
def label_sets(data):
    y = data[1]
    return pd.DataFrame({"insect": y != "bee", "striped": y != "ant"}).astype(int)


@pytest.mark.slow
def test_columns_of_a_table_of_labels_are_the_classes(data, label_sets):
    X = data[0]
    model = FineTunedClassifier(load_backbone(network()), max_epochs=1, random_state=0)
    named = clone(model).fit(X, label_sets)
    plain = clone(model).fit(X, label_sets.to_numpy())
    assert named.classes_.tolist() == ["insect", "striped"] and plain.classes_.tolist() == [0, 1]
    assert np.array_equal(named.predict_proba(X), plain.predict_proba(X))
    assert np.array_equal(named.predict(X), plain.predict(X))
    assert pickle.loads(pickle.dumps(named)).classes_.tolist() == ["insect", "striped"]
    assert named.fit(X, label_sets.to_numpy()).classes_.tolist() == [0, 1]


def test_later_columns_have_the_names_and_the_order_of_the_first(data, label_sets):
    X, settings = data[0], {"max_epochs": 1, "random_state": 0}
    model = FineTunedClassifier(load_backbone(network()), **settings)
    model.partial_fit(X, label_sets)
    turned = label_sets[["striped", "insect"]]
    with pytest.raises(ValueError, match=r"y has the columns .*'striped', 'insect'.*this order"):
        model.partial_fit(X, turned)
    model.partial_fit(X, label_sets.to_numpy()).partial_fit(X, label_sets)
    assert model.classes_.tolist() == ["insect", "striped"]
    with pytest.raises(ValueError, match="y_val has the columns"):
        model.fit(X[:60], label_sets[:60], X_val=X[60:], y_val=turned[60:])
    for other in (turned, label_sets.rename(columns={"insect": "bug"})):
        with pytest.raises(ValueError, match="y has the columns"):
            model.score(X, other)
    assert model.score(X, label_sets) == model.score(X, label_sets.to_numpy())
    positions = FineTunedClassifier(load_backbone(network()), **settings)
    positions.partial_fit(X, label_sets.to_numpy()).partial_fit(X, label_sets)
    assert positions.classes_.tolist() == [0, 1]


def test_a_class_may_have_its_weight_before_it_comes(data):
    X, y = data
    weights, known = {"wasp": 3.0}, y != "wasp"
    settings = {"max_epochs": 4, "random_state": 0}
    model = FineTunedClassifier(load_backbone(network()), class_weight=weights, **settings)
    model.partial_fit(X[known], y[known])
    plain = FineTunedClassifier(load_backbone(network()), **settings)
    plain.partial_fit(X[known], y[known])
    assert np.array_equal(model.predict_proba(X), plain.predict_proba(X))
    announced = clone(model).partial_fit(X[known], y[known], classes=["ant", "bee", "wasp"])
    assert announced.partial_fit(X, y).score(X, y) > 0.6
    with pytest.raises(ValueError, match="not in class_weight"):
        clone(model).set_params(class_weight={"hornet": 3.0}).fit(X, y)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"ant": -1.0}, "must be finite and not negative"),
        (dict.fromkeys(["ant", "bee", "wasp"], 0.0), "has a sum of 0.0: it must be positive"),
        (dict.fromkeys(["ant", "bee", "wasp"], 1e-320), "at least 2.23e-308"),
    ],
)
def test_class_weights_that_say_nothing_are_refused(data, weights, message):
    model = FineTunedClassifier(load_backbone(network()), class_weight=weights)
    with pytest.raises(ValueError, match=f"class_weight times sample_weight.*{message}"):
        model.fit(*data)


def test_small_class_weights_times_small_sample_weights_are_refused(data):
    weights = dict.fromkeys(["ant", "bee", "wasp"], 1e-200)
    model = FineTunedClassifier(load_backbone(network()), class_weight=weights)
    with pytest.raises(ValueError, match=r"class_weight times sample_weight.*at least 2.23e-308"):
        model.fit(*data, sample_weight=1e-120)


def test_callbacks_see_the_epoch_after_which_patience_ends(data):
    settings = {"validation_fraction": 0.4, "max_epochs": 50, "lr": 0.3}
    counting, score = Counting(), EpochScoring("accuracy", lower_is_better=False, name="acc")
    model = FineTunedClassifier(load_backbone(network()), trainable="all", **settings)
    stop = EarlyStopping(patience=2)
    model.set_params(callbacks=[score, counting, stop], random_state=0).fit(*data)
    assert 2 < len(model.history_) < 50
    assert all("acc" in epoch for epoch in model.history_)


def test_ctrl_c_ends_a_fit_and_leaves_what_was_before(data):
    calls = []

    class Pressed(nn.CrossEntropyLoss):
        def forward(self, output, target):
            calls.append(self.training)
            if calls.count(True) == 2:
                raise KeyboardInterrupt
            return super().forward(output, target)

    model = FineTunedClassifier(load_backbone(network()), max_epochs=1, random_state=0).fit(*data)
    before = model.predict_proba(data[0])
    with pytest.raises(KeyboardInterrupt):
        model.set_params(lr=1e-4, max_epochs=3, loss=Pressed()).fit(*data)
    assert calls.count(True) == 2
    assert np.array_equal(model.predict_proba(data[0]), before)


# Interrupts are sent in programs of their own: one that came too late would end the tests.
PRESSED = """
import signal
import numpy as np
import pytest
from skorch.callbacks import Callback
from sktransfer import FineTunedClassifier, load_backbone
from tests.data.test_running import dropped_interrupt, interrupt
from tests.finetuning.conftest import net_inputs, network
signal.signal(signal.SIGINT, signal.default_int_handler)
X, y = np.random.default_rng(0).normal(size=(90, 6)).astype(np.float32), np.arange(90) % 3
class Slow(Callback):
    def on_batch_end(self, net, **kwargs):
        calls.append(net)
        if len(calls) == wanted:
            press()
"""


@pytest.mark.slow
def test_ctrl_c_during_a_callback_stops_fits_and_nets_that_are_trained_further():
    code = f"""{PRESSED}
for press in (dropped_interrupt, interrupt):
    calls, wanted = [], 2
    model = FineTunedClassifier(load_backbone(network()), max_epochs=9, callbacks=[Slow()])
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert len(calls) == 2
    assert not hasattr(model, "classes_")
calls, wanted = [], 1
model = FineTunedClassifier(load_backbone(network()), max_epochs=1).fit(X, y)
net = model.net_
net.callbacks_.append(("slow", Slow().initialize()))
with pytest.raises(KeyboardInterrupt):
    net.partial_fit(net_inputs(model, X), np.zeros(len(X), int))
assert len(calls) == 1
"""
    run_in_new_process(code)


def test_a_callback_may_stop_training(data):
    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 2:
                raise KeyboardInterrupt

    model = FineTunedClassifier(load_backbone(network()), max_epochs=9, callbacks=[Stop()])
    assert len(model.fit(*data).history_) == 2


def test_statistics_of_a_stage_that_has_not_begun_to_learn_stay(data):
    callbacks = [Freezer("body.[0123].*"), Unfreezer("body.[0123].*", at=3)]
    settings = {"trainable": "all", "train_batch_norm": True, "callbacks": callbacks}
    model = FineTunedClassifier(load_backbone(network()), max_epochs=1, **settings)
    model.fit(*data)
    assert not tuned_network(model).changed_tensors()
    model.set_params(max_epochs=4).fit(*data)
    assert any("running_mean" in name for name in tuned_network(model).changed_tensors())


def test_a_search_over_parameters_of_a_fitted_backbone_leaves_it_alone(data):
    X, y = data
    few = FineTunedClassifier(load_backbone(network()), max_epochs=1, random_state=0).fit(X, y)
    search = GridSearchCV(FineTunedClassifier(few, max_epochs=1), {"backbone__lr": [1e-3]}, cv=2)
    search.fit(X, y)
    assert few.lr == "auto" and search.best_estimator_.backbone.lr == 1e-3


def test_only_rows_that_begin_at_random_learn_faster(data):
    X, y = data
    rates = Rates()
    settings = {"head": "mlp", "lr": 1e-3, "max_epochs": 1, "random_state": 0}
    settings["net_params"] = {"callbacks__schedule__warmup": 0.0}
    few = FineTunedClassifier(load_backbone(network()), **settings, callbacks=[rates])
    few.fit(X, y)

    def highest(model):
        (found,) = (c.rates_ for _, c in model.net_.callbacks_ if isinstance(c, Rates))
        return max(found)

    first = highest(few)
    assert highest(few.set_params(warm_start=True).fit(X, y)) == pytest.approx(first / 10)
    grown = FineTunedClassifier(few, **settings, callbacks=[rates]).fit(X, y)
    assert highest(grown) == pytest.approx(first / 10)
    more = np.where(np.arange(len(y)) % 4 == 0, "fly", y)
    assert highest(clone(grown).fit(X, more)) == pytest.approx(first)


@pytest.mark.slow
def test_a_file_of_what_grew_holds_only_what_changed(small_images):
    X, y = small_images
    settings = {"image_size": 32, "trainable": 1, "max_epochs": 1, "random_state": 0}
    two = FineTunedClassifier(**settings).fit(X, y)
    grown = FineTunedClassifier(two, **settings).fit(X, ["bright", "dark", "x", "z"] * 4)
    again = pickle.loads(pickle.dumps(grown))
    assert np.array_equal(again.predict_proba(X), grown.predict_proba(X))
    n = sum(p.numel() * 4 for model in (two, grown) for p in model.net_.module_.parameters())
    assert len(pickle.dumps(grown)) < 1.05 * n
    features = two.to_features().fit(X)
    assert len(pickle.dumps(features)) < 1.05 * len(pickle.dumps(two))
    opened = pickle.loads(pickle.dumps(features))
    assert np.array_equal(opened.transform(X), features.transform(X))
    sized = two.to_backbone().with_image_size(48)
    assert pickle.loads(pickle.dumps(sized)).input_shape == (3, 48, 48)


def test_word_vectors_that_did_not_change_are_not_in_a_file():
    vectors = np.random.default_rng(0).normal(size=(5000, 20)).astype(np.float32)
    words = [f"w{i}" for i in range(len(vectors))]
    backbone = load_word_vectors((words, vectors))
    texts = [" ".join(words[i : i + 500]) for i in range(0, 5000, 500)]
    settings = {"trainable": "all", "random_state": 0, "lr": 0.01}
    model = FineTunedClassifier(backbone, max_epochs=0, **settings).fit(texts, ["a", "b"] * 5)
    assert tuned_network(model).changed_tensors() == {}
    model.set_params(max_epochs=1, net_params={"optimizer__weight_decay": 0.0}).partial_fit(
        texts[:2], ["a", "b"]
    )
    changed = tuned_network(model).changed_tensors()
    assert len(changed["body.0.index"]) == len(changed["body.0.rows"]) == 1000
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(texts), model.predict_proba(texts))


def test_batch_norm_that_learns_from_one_row_says_what_it_needs(data):
    settings = {"trainable": "all", "train_batch_norm": True, "batch_size": 1}
    with pytest.raises(ValueError, match="needs at least two rows in a batch"):
        FineTunedClassifier(load_backbone(network()), **settings).fit(*data)


def test_negative_weights_are_refused(data):
    with pytest.raises(ValueError, match="Negative values"):
        FineTunedClassifier(load_backbone(network())).fit(*data, sample_weight=-np.ones(90))


def test_class_weight_of_several_labels_is_a_list_or_names_columns(data):
    X, y = data
    Y = np.column_stack([y == "ant", y != "bee"]).astype(int)
    settings = {"backbone": load_backbone(network()), "max_epochs": 0}
    plain = FineTunedClassifier(**settings).fit(X, Y).predict_proba(X).mean(axis=0)
    heavy = FineTunedClassifier(class_weight=[{0: 1, 1: 9}, {0: 1, 1: 1}], **settings).fit(X, Y)
    assert heavy.predict_proba(X).mean(axis=0)[0] > plain[0]
    by_name = FineTunedClassifier(class_weight={"ant": 9}, **settings)
    by_name.fit(X, pd.DataFrame(Y, columns=["ant", "insect"]))
    assert np.array_equal(by_name.predict_proba(X), heavy.predict_proba(X))
    with pytest.raises(ValueError, match="class_weight: a dictionary gives the weights of columns"):
        FineTunedClassifier(class_weight={0: 1, 1: 5}, **settings).fit(X, Y)
    with pytest.raises(ValueError, match="class_weight: 'bug' is no column of y"):
        by_name.set_params(class_weight={"bug": 2.0}).fit(X, pd.DataFrame(Y, columns=["a", "b"]))


def test_features_of_a_tuned_network_keep_its_precision(data):
    model = FineTunedClassifier(load_backbone(network()), precision="bfloat16", max_epochs=1)
    assert model.fit(*data).to_features().precision == "bfloat16"
    assert len(np.unique(model.predict(data[0]))) > 1


def test_patience_stops(data):
    settings = {"net_params": SGD, "lr": 5.0, "validation_fraction": 0.3, "max_epochs": 20}
    settings["callbacks"] = [EarlyStopping(patience=2)]
    model = FineTunedClassifier(load_backbone(network()), random_state=0, **settings)
    assert len(model.fit(*data).history_) < 20


def test_the_probe_of_a_fit_is_balanced(data):
    X, y = data
    weight, old = np.linspace(0.1, 3, len(y)), y != "wasp"
    for rows in (old, slice(None)):
        settings = {"max_epochs": 0, "class_weight": "balanced"}
        model = FineTunedClassifier(load_backbone(network()), **settings)
        model.fit(X[rows], y[rows], sample_weight=weight[rows])
        total = weight[rows] * compute_sample_weight("balanced", y[rows])
        Z = net_inputs(model, X[rows]).astype(float)
        mean = np.average(Z, axis=0, weights=total)
        Z = (Z - mean) / np.sqrt(np.average((Z - mean) ** 2, axis=0, weights=total).mean())
        probe = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000)
        expected = probe.fit(Z, y[rows], sample_weight=total).predict_proba(Z)
        np.testing.assert_allclose(model.predict_proba(X[rows]), expected, atol=2e-3)


@pytest.mark.slow
def test_losses_on_images_are_those_of_a_plain_loop(small_images):
    X, y = small_images
    settings = {"trainable": 1, "batch_size": 8, "lr": 1e-3, "random_state": 0, "image_size": 32}
    start = FineTunedClassifier(max_epochs=0, **settings).fit(X, y)
    stages = stages_of(start.backbone_)
    prefix = nn.Sequential(*[stages[name] for name in start.frozen_layers_]).eval()
    module = start.net_.module_.requires_grad_(True).train()
    inputs = torch.from_numpy(compute_inputs(X, start.backbone_))
    codes = torch.as_tensor(np.searchsorted(start.classes_, y))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(start.net_.iterator_train__seed)
    step, expected = 0, []
    for _ in range(2):
        order = torch.randperm(16, generator=generator)
        torch.randint(2**31, (1,), generator=generator)
        losses = []
        for index in order.split(8):
            optimizer.param_groups[0]["lr"] = 1e-3 * warmup_cosine(step, 4, 0.1)
            with torch.no_grad():
                x = prefix(inputs[index])
            loss = nn.functional.cross_entropy(module(x), codes[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
        expected.append(np.mean(losses))
    fitted = FineTunedClassifier(max_epochs=2, **settings).fit(X, y)
    np.testing.assert_allclose([h["train_loss"] for h in fitted.history_], expected, atol=1e-4)


def test_candidates_of_a_search_share_each_sample(small_images, tmp_path):
    noted = NotedImages()
    model = FineTunedClassifier(tiny_backbone(modality=noted), max_epochs=1, memory=tmp_path)
    GridSearchCV(model, {"lr": [1e-4, 1e-3]}, cv=2).fit(*small_images)
    # Each once, and a few to check what is stored and to see their shape; 80 without a store.
    assert 16 <= len(noted.opened) < 32


class Graphs(Callback):
    """Count the graphs that torch has compiled up to the end of each epoch."""

    def initialize(self):
        self.counts_ = []
        return self

    def on_epoch_end(self, net, **kwargs):
        from torch._dynamo.utils import counters

        self.counts_.append(counters["stats"]["unique_graphs"])


@pytest.mark.slow
def test_a_compiled_net_has_the_same_rates_and_is_not_compiled_again_for_each_step(data):
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    settings = {"trainable": "all", "layer_decay": 0.5, "max_epochs": 3, "random_state": 0}
    compiled = {"compile": True, "compile__backend": "eager", "callbacks": [Graphs()]}
    plain, model = (
        FineTunedClassifier(load_backbone(network()), net_params=net_params, **settings).fit(*data)
        for net_params in (None, compiled)
    )
    (n_graphs,) = (c.counts_ for _, c in model.net_.callbacks_ if isinstance(c, Graphs))
    assert len(n_graphs) == 3 and n_graphs[0] == n_graphs[2] > 0
    rates = [[g["initial_lr"] for g in m.net_.optimizer_.param_groups] for m in (plain, model)]
    assert rates[0] == rates[1]
    expected = plain.predict_proba(data[0])
    np.testing.assert_allclose(model.predict_proba(data[0]), expected, atol=1e-4)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(again.predict_proba(data[0]), expected, atol=1e-4)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_label_is_named(data, missing):
    y = data[1].astype(object)
    y[7] = missing
    with pytest.raises(ValueError, match=r"missing label: .* at 7"):
        FineTunedClassifier(load_backbone(network())).fit(data[0], y)


@pytest.mark.slow
def test_fits_of_one_estimator_leave_nothing_behind(data):
    """torch keeps the source of each traced module for good, unless it is told not to."""
    model = FineTunedClassifier(load_backbone(network()), trainable="all", max_epochs=1)

    def kept() -> int:
        gc.collect()
        return sum(name.startswith("<eval_with_key>") for name in linecache.cache)

    model.fit(*data)
    before = kept()
    for _ in range(2):
        model.fit(*data)
    assert kept() == before


# -- labels ----------------------------------------------------------------------------------------


def test_a_label_that_a_fit_removes_is_new_if_it_comes_back(data):
    X, y = data
    model = FineTunedClassifier(
        load_backbone(network()), max_epochs=0, warm_start=True, random_state=0
    ).fit(X, y)
    kept = y != "wasp"
    model.fit(X[kept], y[kept])
    model.partial_fit(X[kept], y[kept], classes=["ant", "bee", "wasp"])
    assert set(model.to_backbone().label_rows) == {"ant", "bee"}
    # Its row is fitted when it has samples.
    model.partial_fit(X, y)
    assert set(model.to_backbone().label_rows) == {"ant", "bee", "wasp"}
    assert np.mean(model.predict(X[~kept]) == "wasp") > 0.5


@pytest.mark.parametrize("weight", [np.nan, np.inf, 1e308, "x", -1, None])
def test_class_weights_that_are_no_finite_numbers_are_refused_by_name(weight, data):
    model = FineTunedClassifier(load_backbone(network()), class_weight={"ant": weight, "bee": 1})
    with pytest.raises(ValueError, match=r"^class_weight"):
        model.fit(*data)


def test_a_warm_start_refuses_a_network_whose_weights_changed(data):
    module = network()
    model = FineTunedClassifier(module, warm_start=True, max_epochs=1, random_state=0).fit(*data)
    with torch.no_grad():
        module[0][0].weight.mul_(2)
    with pytest.raises(ValueError, match=r"backbone= has other weights.*warm_start=False"):
        model.fit(*data)
