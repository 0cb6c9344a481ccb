"""Training in several processes equals training in one, and an error in one is one in all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback, EarlyStopping, EpochScoring, Freezer
from torch import nn

from sktransfer import (
    Augmentation,
    FineTunedClassifier,
    FineTunedRegressor,
    load_word_vectors,
)
from tests.finetuning.conftest import network, vectors
from tests.finetuning.test_training import LABELS, TEXTS, encoder
from tests.finetuning.two_processes import fit_in_two
from tests.support import images, tiny_backbone

SETTINGS = {"device": "cpu", "random_state": 0, "max_epochs": 3, "batch_size": 16}
HELD = {"trainable": "all", "validation_fraction": 0.3, "lr": 0.05}
CASES = {
    "head": {"trainable": "head"},
    "some stages": {"trainable": 2, "lr": 0.01},
    "all stages": {"trainable": "all"},
    "a last batch of one row": {"trainable": "all", "batch_size": 89, "lr": 0.01},
    "batches of one row": {"trainable": "all", "batch_size": 1, "max_epochs": 1, "lr": 0.01},
    "micro-batches": {"trainable": "all", "batch_size": 48, "micro_batch_size": 8, "lr": 0.01},
    "weights": {"trainable": "all", "class_weight": {"ant": 3.0, "bee": 0.5, "wasp": 1.0}},
    "validation": HELD | {"max_epochs": 6},
    "early stopping": HELD
    | {"callbacks": [EarlyStopping(patience=2)], "lr": 0.1, "max_epochs": 12},
    "a score of the user's": HELD
    | {
        "callbacks": [
            EpochScoring("accuracy", name="score", lower_is_better=False),
            EpochScoring("accuracy", name="fit", lower_is_better=False, on_train=True),
            EpochScoring("neg_log_loss", name="again", use_caching=False),
            EarlyStopping("score", lower_is_better=False, patience=2),
        ],
        "max_epochs": 8,
    },
    "random head": {"trainable": 2, "head": "mlp"},
}


def told(model, X):
    """What a fitted model has become."""
    state = {name: tensor.numpy() for name, tensor in model.net_.module_.state_dict().items()}
    rows = [{k: v for k, v in row.items() if k != "dur"} for row in model.history_]
    about = {"lr": model.lr_, "epoch": model.best_epoch_}
    about["held"] = model.validation_indices_.tolist()
    predict = model.predict_proba if hasattr(model, "predict_proba") else model.predict
    return {"state": state, "history": rows, "about": about, "outputs": predict(X)}


def fitted(case: str):
    X, y = vectors()
    weight = np.random.default_rng(0).uniform(0.1, 3, len(X))
    model = FineTunedClassifier(network(), **SETTINGS | CASES[case])
    model.fit(X, y, sample_weight=weight if case == "weights" else None)
    return told(model, X)


# Of the cases, those that several things share.
DAILY = ("some stages", "weights", "micro-batches", "a score of the user's")


def all_fitted(cases):
    return {case: fitted(case) for case in cases}


def assert_same(a, b, tolerance):
    assert a["about"] == b["about"]
    for name in a["state"]:
        np.testing.assert_allclose(a["state"][name], b["state"][name], rtol=0, atol=tolerance)
    assert len(a["history"]) == len(b["history"])
    for row, other in zip(a["history"], b["history"], strict=True):
        assert set(row) == set(other)
        for key in row:
            if isinstance(row[key], float):
                assert row[key] == pytest.approx(other[key], abs=tolerance), key
    np.testing.assert_allclose(a["outputs"], b["outputs"], rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("cases", [DAILY, pytest.param([*CASES], marks=pytest.mark.sweep)])
def test_two_processes_train_what_one_does(cases, tmp_path):
    first, second = fit_in_two(all_fitted, tmp_path, cases)
    for case in cases:
        assert_same(first[case], second[case], 0)
        assert_same(first[case], fitted(case), 1e-4)


# kinds of samples and calls


def numbers():
    X, _ = vectors()
    model = FineTunedRegressor(network(), trainable="all", loss=nn.L1Loss(), **SETTINGS)
    return told(model.fit(X, X[:, :2]), X)


def pictures(**settings):
    settings = SETTINGS | {"trainable": "all"} | settings
    model = FineTunedClassifier(tiny_backbone(), **settings)
    X, y = images(41), [0, 1, 2, 1, 0] * 8 + [2]
    return told(model.fit(X, y, X_val=images(11, seed=5), y_val=y[:11]), X)


def views():
    return pictures(augment="light", trainable=1, max_cache_bytes=0)


def new_views():
    return pictures(augment=Augmentation("light", n_views=None))


def words():
    table = dict(zip("abcdefgh", np.eye(8, 6, dtype=np.float32), strict=True))
    X = ["a b", "c", "d e f", "a", "g h", "b c d"] * 3
    settings = SETTINGS | {"backbone": load_word_vectors(table), "trainable": "all"}
    return told(FineTunedClassifier(**settings, lr=0.1).fit(X, [0, 1, 2] * 6), X)


def sentences():
    model = FineTunedClassifier(encoder(), trainable="all", **SETTINGS, lr=1e-2)
    return told(model.fit(TEXTS, LABELS), TEXTS)


def in_parts():
    X, y = vectors()
    model = FineTunedClassifier(network(), trainable=1, **SETTINGS)
    model.partial_fit(X[:40], y[:40], classes=["ant", "bee", "wasp"])
    return told(model.partial_fit(X[40:], y[40:]), X)


class Head(nn.Linear):
    """A head with a weight that no output depends on."""

    def __init__(self, n_features, n_outputs):
        super().__init__(n_features, n_outputs)
        self.spare = nn.Parameter(torch.ones(3))


def spare_weight():
    X, y = vectors()
    settings = SETTINGS | {"head": Head, "head_init": "random", "trainable": "all", "lr": 0.01}
    return told(FineTunedClassifier(network(), **settings).fit(X, y), X)


class Narrow(nn.Linear):
    """A head that takes more memory than there is, in the second process at least."""

    def forward(self, x):
        if self.training and len(x) > 3 and os.environ.get("RANK") == "1":
            raise torch.OutOfMemoryError("too long")
        return super().forward(x)


def short_memory():
    X, y = vectors()
    settings = SETTINGS | {"head": Narrow, "head_init": "random", "trainable": "all", "lr": 0.01}
    return told(FineTunedClassifier(network(), **settings).fit(X, y), X)


def continued(folder):
    """A training that is stopped by an error, and goes on from its file."""
    X, y = vectors()
    settings = SETTINGS | {"trainable": "all", "lr": 0.01, "checkpoint": folder, "max_epochs": 4}
    model = FineTunedClassifier(network(), callbacks=[Fails()], **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAILS_IN_EPOCH", "3")
        with pytest.raises(RuntimeError, match="no luck"):
            model.fit(X, y)
    return told(model.fit(X, y), X)


class Fails(Callback):
    """Fail in the first process, in an epoch that no checkpoint describes."""

    def on_epoch_begin(self, net, **kwargs):
        is_first = os.environ.get("RANK", "0") == "0"
        if is_first and os.environ.get("FAILS_IN_EPOCH") == str(len(net.history)):
            raise RuntimeError("no luck")


KINDS = [numbers, pictures, views, new_views, words, sentences, in_parts, spare_weight]
KINDS += [short_memory]


def all_kinds():
    return [kind() for kind in KINDS]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return fit_in_two(all_kinds, tmp_path_factory.mktemp("kinds"))


@pytest.mark.sweep
@pytest.mark.parametrize("at", range(len(KINDS)), ids=[kind.__name__ for kind in KINDS])
def test_kinds_of_samples_and_calls(kinds, at):
    assert_same(kinds[0][at], kinds[1][at], 0)
    assert_same(kinds[0][at], KINDS[at](), 1e-4)


@pytest.mark.sweep
def test_a_checkpoint_is_written_by_the_first_process_and_read_by_all(tmp_path):
    a, b = fit_in_two(continued, tmp_path, str(tmp_path / "two"))
    assert_same(a, b, 0)
    assert_same(a, continued(str(tmp_path / "one")), 1e-4)


# errors


class InSecond(Callback):
    """Call a function in the second process, in the second epoch."""

    def __init__(self, function):
        self.function = function

    def on_batch_begin(self, net, training=None, **kwargs):
        if len(net.history) == 2 and training and os.environ["RANK"] == "1":
            self.function()


def fail():
    raise ValueError("no luck")


def stop():
    raise KeyboardInterrupt


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def train_with(function):
    X, y = vectors()
    model = FineTunedClassifier(network(), callbacks=[InSecond(function)], **SETTINGS)
    return len(model.fit(X, y).history_)


def fail_and_train_again():
    try:
        train_with(fail)
    except Exception as error:
        return repr(error), fitted("head")["history"]


@pytest.mark.sweep
def test_an_error_in_one_process_is_an_error_in_all_and_the_next_fit_works(tmp_path):
    (first, history), (second, same) = fit_in_two(fail_and_train_again, tmp_path)
    assert second == "ValueError('no luck')"
    assert first == "RuntimeError('Process 1 of the training failed: ValueError: no luck')"
    assert history == same


@pytest.mark.sweep
def test_all_stop_when_a_callback_of_one_does(tmp_path):
    assert fit_in_two(train_with, tmp_path, stop) == [2, 2]


@pytest.mark.sweep
def test_a_killed_process_is_an_error_in_the_others(tmp_path):
    start = time.monotonic()
    error, killed = fit_in_two(train_with, tmp_path, kill)
    assert killed is None
    assert isinstance(error, RuntimeError)
    assert "has ended, or was killed" in str(error)
    assert time.monotonic() - start < 120  # of which the imports take most


def fit_unreadable():
    X = images(20)
    X[3], X[8] = "nowhere.jpg", "gone.jpg"
    FineTunedClassifier(tiny_backbone(), **SETTINGS).fit(X, [0, 1] * 10)


def fit_others():
    X, y = vectors()
    y[0] = "ant" if os.environ["RANK"] == "1" else "bee"
    FineTunedClassifier(network(), **SETTINGS).fit(X, y)


def refused(**settings):
    X, y = vectors()
    try:
        FineTunedClassifier(network(), **SETTINGS | settings).fit(X, y)
    except ValueError as error:
        return str(error)


class Centered(nn.Linear):
    """A head that counts its batches."""

    def __init__(self, n_features, n_outputs):
        super().__init__(n_features, n_outputs)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.count += 1
        return super().forward(x)


REFUSED = {
    "train_batch_norm=True": {"train_batch_norm": True},
    "rehearsal=": {"rehearsal": 2},
    "net_params['compile']": {"net_params": {"compile": True}},
    "Freezer or Unfreezer in callbacks": {"callbacks": [("own", Freezer("body.0.*"))]},
    "device='cpu:0'": {"device": "cpu:0"},
    "count' changes in training": {"head": Centered, "head_init": "random"},
    "needs a sample": {"validation_fraction": 0.01},
}


def all_errors():
    errors = []
    for fit in (fit_unreadable, fit_others):
        try:
            fit()
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
    return [*errors, *(refused(**settings) for settings in REFUSED.values())]


@pytest.mark.sweep
def test_errors_name_what_is_wrong(tmp_path):
    first, second = fit_in_two(all_errors, tmp_path)
    assert "sample 3, 'nowhere.jpg'" in second[0]
    assert "UnreadableSamplesError" in second[0]
    assert "sample 8, 'gone.jpg'" in first[0]
    for errors in (first, second):
        assert errors[1] == "ValueError: The processes fit different networks, targets or weights."
        for text, error in zip(REFUSED, errors[2:], strict=True):
            assert text in error
            assert "one" in error


# launchers

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "finetuning.md"


@pytest.mark.sweep
@pytest.mark.parametrize("launcher", ["torch.distributed.run", "accelerate.commands.launch"])
def test_the_script_of_the_guide(launcher, tmp_path):
    pandas = pytest.importorskip("pandas")
    from PIL import Image

    for i, image in enumerate(images(12)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    table = {"path": [str(tmp_path / f"{i}.png") for i in range(12)], "label": ["a", "b"] * 6}
    pandas.DataFrame(table).to_parquet(tmp_path / "photos.parquet")
    script = GUIDE.read_text().split("<!-- recipe: accelerate -->\n```py\n")[1].split("```")[0]
    (tmp_path / "train.py").write_text(script)
    options = {
        "torch.distributed.run": ["--nproc-per-node", "2"],
        "accelerate.commands.launch": ["--num_processes", "2", "--cpu"],
    }
    command = [sys.executable, "-m", launcher, *options[launcher], "train.py"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=300)
    assert ended.returncode == 0, ended.stderr.decode()
    assert (tmp_path / "model.joblib").exists()
