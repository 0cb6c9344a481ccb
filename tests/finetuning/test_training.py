"""The training loop, and batches that are run in micro-batches."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    mean_absolute_error,
    roc_auc_score,
)
from skorch.callbacks import (
    BatchScoring,
    Callback,
    EarlyStopping,
    EpochScoring,
    Freezer,
    GradientNormClipping,
    Unfreezer,
)
from torch import nn

from sktransfer import FineTunedClassifier, FineTunedRegressor, load_backbone
from sktransfer.backbones import stages_of
from sktransfer.finetuning import training, training_length
from sktransfer.finetuning.trainable_stages import TrainableStages
from sktransfer.finetuning.training import join_outputs, split_batch
from tests.backbones import q4_support as q4
from tests.finetuning.conftest import SGD, net_inputs, network
from tests.finetuning.test_callbacks import Rates, rates_of

NETS = {"trainable": 1, "max_epochs": 2, "lr": 0.01, "random_state": 0}


def fitted(data, **settings):
    X, y = data
    model = FineTunedClassifier(load_backbone(network()), **NETS | settings).fit(X, y)
    return model, net_inputs(model, X), np.searchsorted(model.classes_, y)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"validation_fraction": 0.2, "callbacks": [EarlyStopping(patience=3)]},
        {"verbose": 1},
        {"callbacks": [Freezer("body.0.*"), Unfreezer("body.0.*", at=2)], "max_epochs": 4},
        {"callbacks": [Rates(), GradientNormClipping(1.0)], "net_params": SGD},
    ],
)
def test_a_copy_of_the_net_goes_on_and_leaves_the_model_alone(settings, data):
    model, activations, codes = fitted(data, **settings)
    before = model.predict_proba(data[0])
    for net in (copy.deepcopy(model.net_), pickle.loads(pickle.dumps(model.net_))):
        np.testing.assert_allclose(net.predict_proba(activations), before, atol=1e-6)
        net.partial_fit(activations, codes)
        losses = net.history[:, "train_loss"]
        assert len(losses) == 2 * model.max_epochs
        assert losses[-1] < losses[0]
        assert np.array_equal(before, model.predict_proba(data[0]))
        assert len(model.history_) == model.max_epochs


def test_a_pickle_of_the_net_holds_no_rows_that_trained():
    X = np.random.default_rng(0).normal(size=(4000, 6)).astype(np.float32)
    settings = NETS | {"validation_fraction": 0.01, "batch_size": 4000}
    model = FineTunedClassifier(load_backbone(network()), **settings).fit(X, X[:, 0] > 0)
    assert len(pickle.dumps(model.net_)) < 4000 * 16 * 4 / 2  # half of the table at the cut


def test_the_model_follows_its_net(data):
    model, activations, codes = fitted(data)
    before, backbone = model.predict_proba(data[0]), model.to_backbone()
    model.net_.partial_fit(activations, codes)
    after = model.predict_proba(data[0])
    assert np.abs(before - after).max() > 1e-4
    np.testing.assert_allclose(model.net_.predict_proba(activations), after, atol=1e-6)
    assert model.to_backbone() is not backbone
    assert len(model.history_) == 4
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict_proba(data[0]), after)


def test_the_net_of_an_opened_model_has_its_history_and_goes_on(data):
    model, activations, codes = fitted(data, validation_fraction=0.2)
    again = pickle.loads(pickle.dumps(model))
    assert again.history_ == model.history_
    for column in ("epoch", "train_loss", "valid_loss", "dur"):
        assert again.net_.history[:, column] == model.net_.history[:, column]
    again.net_.partial_fit(activations, codes)
    losses = again.net_.history[:, "train_loss"]
    assert len(losses) == 4
    assert losses[3] < losses[0]
    assert len(pickle.loads(pickle.dumps(again)).net_.history) == 4


def test_the_rate_of_a_net_that_goes_on_falls_over_the_rows_that_it_is_given(data):
    settings = {"batch_size": 30, "trainable": "head", "callbacks": [Rates()]}
    settings["net_params"] = {"callbacks__schedule__warmup": 0.0}
    model, activations, codes = fitted(data, **settings)
    first = list(rates_of(model))
    model.net_.partial_fit(activations, codes)
    np.testing.assert_allclose(rates_of(model)[6:], first)
    model.net_.partial_fit(np.tile(activations, (2, 1)), np.tile(codes, 2))
    longer = rates_of(model)[12:]
    assert (len(longer), longer[0], longer[6]) == (12, 0.01, pytest.approx(0.005))
    model.net_.set_params(lr=0.5).partial_fit(activations, codes)
    assert rates_of(model)[24] == 0.5


class Stop(Callback):
    def on_epoch_end(self, net, **kwargs):
        raise KeyboardInterrupt


def test_a_net_that_a_callback_stops_goes_on(data):
    model, activations, codes = fitted(data, callbacks=[Stop()])
    model.net_.partial_fit(activations, codes)
    assert len(model.history_) == 2


def units(X, n_targets):
    y = 1000 * X[:, 0].astype(float) + 5000
    return y if n_targets == 1 else np.column_stack([y, X[:, 1]])


@pytest.mark.parametrize("n_targets", [1, 2])
def test_the_net_of_a_regressor_takes_and_predicts_the_units_of_y(n_targets, data):
    X, _ = data
    y = units(X, n_targets)
    model = FineTunedRegressor(load_backbone(network()), max_epochs=2, lr=0.01).fit(X, y)
    activations = net_inputs(model, X)
    np.testing.assert_allclose(
        model.net_.predict(activations), model.predict(X).reshape(len(X), -1), rtol=1e-5
    )
    model.net_.partial_fit(activations, y)
    losses = [epoch["train_loss"] for epoch in model.history_]
    assert len(losses) == 4
    assert losses[3] < losses[0] < 1  # of standardised targets
    assert model.score(X, y) > 0.4


@pytest.mark.parametrize("on_train", [False, True])
@pytest.mark.parametrize("n_targets", [1, 2])
def test_scores_of_a_regressor_are_in_the_units_of_y(on_train, n_targets, data):
    X, _ = data
    y = units(X, n_targets)
    scores = [
        EpochScoring("neg_mean_absolute_error", name="epoch", on_train=on_train),
        BatchScoring("neg_mean_absolute_error", name="batch", on_train=on_train),
    ]
    settings = {"max_epochs": 1, "lr": 1e-12, "validation_fraction": 0.3, "random_state": 0}
    model = FineTunedRegressor(load_backbone(network()), callbacks=scores, **settings).fit(X, y)
    held = model.validation_indices_
    rows = np.setdiff1d(np.arange(len(X)), held) if on_train else held
    expected = -mean_absolute_error(y[rows], model.predict(X[rows]))
    assert model.history_[0]["epoch"] == pytest.approx(expected, rel=1e-4)
    assert model.history_[0]["batch"] == pytest.approx(expected, rel=1e-4)


def test_targets_far_from_zero_keep_their_digits(data):
    X, _ = data
    y = X[:, 0].astype(float)
    settings = {"trainable": "all", "max_epochs": 3, "lr": 1e-3, "random_state": 0}
    model = FineTunedRegressor(load_backbone(network()), **settings)
    expected = model.fit(X, y).predict(X)
    np.testing.assert_allclose(model.fit(X, y + 1.7e9).predict(X) - 1.7e9, expected, atol=1e-3)


SCORES = {
    "accuracy": accuracy_score,
    "f1_micro": functools.partial(f1_score, average="micro"),
    "roc_auc": roc_auc_score,
    "average_precision": average_precision_score,
}


@pytest.mark.parametrize("scoring", SCORES)
@pytest.mark.parametrize("n_labels", [2, 3])
def test_scores_of_an_indicator_matrix(scoring, n_labels, data):
    X, y = data
    Y = np.column_stack([y == "ant", y != "bee", X[:, 0] > 0])[:, :n_labels].astype(int)
    score = EpochScoring(scoring, name="score", lower_is_better=False)
    settings = {"max_epochs": 1, "lr": 1e-12, "validation_fraction": 0.3, "random_state": 0}
    model = FineTunedClassifier(load_backbone(network()), callbacks=[score], **settings).fit(X, Y)
    held = model.validation_indices_
    labels = scoring in ("accuracy", "f1_micro")
    found = model.predict(X[held]) if labels else model.predict_proba(X[held])
    assert model.history_[0]["score"] == pytest.approx(SCORES[scoring](Y[held], found))
    assert np.array_equal(model.net_.predict(net_inputs(model, X)), model.predict(X))


@pytest.mark.parametrize("on_train", [False, True])
def test_scores_that_skorch_does_not_cache_are_those_of_the_model(on_train, data):
    X, y = data
    score = EpochScoring("accuracy", name="score", on_train=on_train, use_caching=False)
    # One epoch, whose weights are the final ones.
    settings = {"validation_fraction": 0.3, "max_epochs": 1, "lr": 1e-5, "callbacks": [score]}
    model = FineTunedClassifier(load_backbone(network()), random_state=0, **settings).fit(X, y)
    held = np.isin(np.arange(len(y)), model.validation_indices_)
    rows = ~held if on_train else held
    assert model.best_epoch_ == 1
    assert model.history_[0]["score"] == pytest.approx(model.score(X[rows], y[rows]))


@pytest.mark.filterwarnings("ignore:y has one class only")  # that of one sample
@pytest.mark.parametrize(("fraction", "n"), [(0.0, 90), (0.3, 1)])
def test_callbacks_that_need_a_hold_out_set_say_so(fraction, n, data):
    X, y = data
    model = FineTunedClassifier(
        load_backbone(network()), validation_fraction=fraction, callbacks=[EarlyStopping()]
    )
    with pytest.raises(ValueError, match=r"callbacks.* set validation_fraction"):
        model.fit(X[:n], y[:n])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_does_not_depend_on_the_gradient_mode_of_the_caller(mode, data):
    def model():
        return FineTunedClassifier(network(), trainable="all", max_epochs=1, random_state=0)

    expected = model().fit(*data).predict_proba(data[0])
    with mode():
        fitted = model().fit(*data)
    assert np.array_equal(fitted.predict_proba(data[0]), expected)
    with mode():
        fitted.partial_fit(*data)
    other = model().fit(*data).partial_fit(*data)
    assert np.array_equal(fitted.predict_proba(data[0]), other.predict_proba(data[0]))


def test_training_does_not_depend_on_the_default_type_of_torch(data):
    model = FineTunedClassifier(network(), trainable=1, max_epochs=1, random_state=0)
    expected = model.fit(*data).predict_proba(data[0])
    torch.set_default_dtype(torch.float64)
    try:
        found = model.fit(*data).predict_proba(data[0])
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(found, expected, atol=1e-5)


# -- batches run in micro-batches within limits of rows, length and memory -------------------------


def plain_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        steps = [nn.Linear(6, 16), nn.ReLU(inplace=True), nn.Linear(16, 12), nn.GELU()]
        return nn.Sequential(*steps, nn.Linear(12, 4))


def fit(data, cls=FineTunedClassifier, module=None, **settings):
    X, y = data
    y = y if cls is FineTunedClassifier else X[:, :2] * 3
    module = plain_network() if module is None else module
    given = {"trainable": "all", "max_epochs": 3, "lr": 1e-2, "random_state": 0} | settings
    return cls(load_backbone(module), **given).fit(X, y)


def assert_close(a, b, rtol=1e-4):
    pairs = zip(
        a.net_.module_.state_dict().values(), b.net_.module_.state_dict().values(), strict=True
    )
    for x, y in pairs:
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=rtol, atol=1e-5)


@pytest.mark.parametrize(
    ("cls", "batch_size", "micro_batch_size"),
    [
        *[(FineTunedClassifier, 28, 7), (FineTunedClassifier, 32, 1)],
        *[(FineTunedRegressor, 32, 4), (FineTunedRegressor, 32, 16)],
    ],
)
def test_micro_batches_train_as_the_batch(cls, batch_size, micro_batch_size, data):
    settings = {"validation_fraction": 0.2, "net_params": SGD, "batch_size": batch_size}
    large = fit(data, cls, **settings)
    found = fit(data, cls, micro_batch_size=micro_batch_size, **settings)
    assert_close(found, large)
    for a, b in zip(found.history_, large.history_, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["valid_loss"] == pytest.approx(b["valid_loss"], rel=1e-4)


def test_weights_of_samples_count_as_in_the_batch(data):
    X, y = data
    weight = np.random.default_rng(0).uniform(0, 5, len(y))
    large, found = (
        FineTunedClassifier(
            load_backbone(plain_network()), max_epochs=2, lr=1e-2, random_state=0, **settings
        ).fit(X, y, sample_weight=weight)
        for settings in ({"batch_size": 35}, {"batch_size": 35, "micro_batch_size": 5})
    )
    assert_close(found, large, rtol=1e-3)


def test_no_more_rows_than_a_micro_batch_pass_the_network_at_once(data):
    seen = []
    model = fit(data, batch_size=24, micro_batch_size=8, max_epochs=1, head_init="random")
    first = model.net_.module_.body[0]
    first.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    model.net_.partial_fit(data[0], np.searchsorted(model.classes_, data[1]))
    assert max(seen) == 8
    assert sum(seen) == 90


def test_micro_batches_have_two_rows_for_batch_norm_that_learns(data):
    model = fit(
        data,
        module=network(),
        batch_size=6,
        micro_batch_size=1,
        train_batch_norm=True,
        max_epochs=1,
    )
    assert len(model.history_) == 1


def test_micro_batches_differ_by_one_row_at_most():
    batch = ({"x": torch.arange(22.0).reshape(11, 2), "weight": torch.ones(11)}, torch.arange(11))
    micro_batches, order = split_batch(batch, 4)
    assert [len(y) for _, y in micro_batches] == [4, 4, 3]
    assert all(len(x["x"]) == len(x["weight"]) == len(y) for x, y in micro_batches)
    outputs = [(x["x"], x["weight"]) for x, _ in micro_batches]
    assert torch.equal(join_outputs(outputs, order)[0], batch[0]["x"])


def test_auto_is_16_rows_a_batch_and_120_steps():
    assert training_length(90, "auto", "auto") == (16, 20)
    assert training_length(90, 200, "auto") == (90, 60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainable", "n_classes", "batch_size", "n_epochs"),
    [
        ("head", 1001, 256, 2),
        pytest.param("head", 1000, 32, 4, marks=pytest.mark.sweep),
        pytest.param("all", 1001, 32, 4, marks=pytest.mark.sweep),
    ],
)
def test_a_head_of_more_than_1000_classes_takes_steps_of_256_rows(
    trainable, n_classes, batch_size, n_epochs
):
    """The optimizer changes each weight in each step; 2 passes of 55 steps are about 120."""
    y = np.arange(14 * n_classes) % n_classes
    X = np.random.default_rng(0).normal(size=(len(y), 2)).astype(np.float32)
    network = nn.Sequential(nn.Linear(2, 2))
    model = FineTunedClassifier(network, trainable=trainable, head_init="random", random_state=0)
    model.fit(X, y)
    assert model.net_.batch_size == batch_size
    assert len(model.history_) == n_epochs


# texts of similar length


class Words(nn.Module):
    """Vectors of words, zero where there is none."""

    takes_any_length = True

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 8)
        self.seen = []

    def forward(self, ids):
        self.seen.append(tuple(ids.shape))
        return self.table(ids) * (ids > 0)[..., None]


class Mixed(nn.Module):
    """Each token looks at all others, but not at padding."""

    takes_any_length = True

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x):
        tokens = (x != 0).any(-1, keepdim=True)
        mean = x.sum(1, keepdim=True) / tokens.sum(1, keepdim=True).clamp(min=1)
        return (x + self.dropout(torch.tanh(self.inner(x) + mean))) * tokens


def ids_of(text):
    return torch.tensor([1 + ord(c) % 8 for c in text], dtype=torch.long)


def encoder():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(Words(), Mixed()).eval()
    return load_backbone(module, modality="text", preprocess=ids_of)


TEXTS = ["a" * n + "bc" for n in [60, 3, 17, 5, 44, 2, 9, 30, 1, 12, 8, 51, 26, 4]] + [""]
LABELS = [0, 1, 2] * 5


def fit_texts(**settings):
    given = {"trainable": "all", "lr": 1e-2, "max_epochs": 3, "batch_size": 15, "random_state": 0}
    return FineTunedClassifier(encoder(), **given | settings).fit(TEXTS, LABELS)


@pytest.mark.parametrize("settings", [{}, {"trainable": 1}, {"micro_batch_size": 7}])
def test_parts_of_similar_length_train_as_the_batch(settings, monkeypatch):
    found = []
    for n_tokens in (32, 10**9):
        monkeypatch.setattr(training, "_TOKENS", n_tokens)
        found.append(fit_texts(net_params=SGD, **settings))
    for a, b in zip(*(model.net_.module_.parameters() for model in found), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    for a, b in zip(*(model.history_ for model in found), strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)


def test_short_texts_are_not_padded_to_long_ones(monkeypatch):
    monkeypatch.setattr(training, "_TOKENS", 64)
    model = fit_texts(max_epochs=0)
    (words,) = (m for m in model.net_.module_.modules() if isinstance(m, Words))
    words.seen.clear()
    batch = model.net_.get_iterator(model.net_.get_dataset(*rows(TEXTS)), training=True)
    model.net_.train_step(next(iter(batch)))
    n_tokens, longest = sum(map(len, TEXTS)), max(map(len, TEXTS))
    assert sum(n for n, _ in words.seen) == len(TEXTS)
    assert sum(n * width for n, width in words.seen) < 1.3 * n_tokens < 0.7 * longest * len(TEXTS)


def rows(texts):
    padded = np.zeros((len(texts), max(map(len, texts))), np.int64)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = ids_of(text)
    return padded, np.array(LABELS)


def test_rows_return_in_their_order():
    generator = torch.Generator().manual_seed(0)
    n = torch.randint(1, 90, (20,), generator=generator)
    x = (torch.arange(90) < n[:, None]).long()
    batch = {"x": x, "weight": n}, torch.arange(20)
    for most_rows in (20, 3):
        micro_batches, order = split_batch(batch, most_rows, by_length=True)
        for inputs, _ in micro_batches:
            assert inputs["x"].shape[1] == inputs["weight"].max()
        outputs = [(y, inputs["weight"]) for inputs, y in micro_batches]
        positions, weights = join_outputs(outputs, order)
        assert torch.equal(positions, torch.arange(20))
        assert torch.equal(weights, n)


def test_a_loss_of_the_users_sees_the_whole_batch():
    sizes = []

    def loss(outputs, targets):
        sizes.append(len(outputs))
        return nn.functional.cross_entropy(outputs, targets)

    fit_texts(loss=loss, max_epochs=1)
    assert set(sizes) == {15}


class Positions(nn.Module):
    """Vectors of 80 tokens and of their positions."""

    def __init__(self):
        super().__init__()
        self.table, self.places = nn.Embedding(9, 8), nn.Parameter(torch.zeros(80, 8))

    def forward(self, ids):
        return self.table(ids) + self.places


def padded(text):
    return nn.functional.pad(ids_of(text), (0, 80 - len(text)))


def test_a_network_that_takes_one_length_is_trained():
    backbone = load_backbone(Positions().eval(), modality="text", preprocess=padded)
    model = FineTunedClassifier(backbone, trainable="all", max_epochs=1, random_state=0)
    assert model.fit(TEXTS, LABELS).predict(TEXTS[:2]).shape == (2,)


def test_stages_of_encoders_are_run_in_parts(tmp_path):
    pytest.importorskip("transformers")
    backbone = load_backbone("e5_small", weights=q4.write_q4(tmp_path / "small.bin"))
    embeddings, *blocks, sentence = stages_of(backbone).values()
    settings = {"train_batch_norm": False, "precision": "float32"}
    for stage, expected in [(embeddings, True), (blocks[-1], True), (sentence, False)]:
        module = TrainableStages({"stage": stage}, nn.Linear(4, 2), masked=True, **settings)
        assert module.is_encoder == expected


def test_a_text_without_tokens_has_a_length():
    batch = {"x": torch.zeros(3, 5, dtype=torch.long)}, torch.zeros(3)
    micro_batches, _ = split_batch(batch, 1, by_length=True)
    assert [tuple(inputs["x"].shape) for inputs, _ in micro_batches] == [(1, 1)] * 3
