"""A fit that is killed goes on from its checkpoint and ends bit for bit where it would have."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import (
    Callback,
    EarlyStopping,
    EpochScoring,
    Freezer,
    GradientNormClipping,
    LRScheduler,
    Unfreezer,
)
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from sktransfer import (
    Augmentation,
    FineTunedClassifier,
    FineTunedRegressor,
    load_backbone,
    load_word_vectors,
)
from sktransfer.data import disk
from sktransfer.finetuning.training import TrainingNet
from tests.finetuning.conftest import SGD, net_inputs, network, vectors
from tests.support import images, run_python, tiny_backbone

FILE = "training.checkpoint"
SETTINGS = {"trainable": 2, "max_epochs": 6, "random_state": 0, "batch_size": 30, "lr": 0.01}


class Killed(BaseException):
    """Ends a fit as a kill does: nothing is done about it."""


@contextlib.contextmanager
def killed_at(n):
    """End every fit at its n-th batch of training."""
    step, left = TrainingNet.train_step_single, [n]

    def train_step_single(self, *args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(TrainingNet, "train_step_single", train_step_single)
        yield


class Mean(Callback):
    """A user's callback with a state: it divides the rates by the mean loss of all epochs."""

    losses = ()

    def on_epoch_end(self, net, **kwargs):
        self.losses = [*self.losses, net.history[-1, "train_loss"]]
        for group in net.optimizer_.param_groups:
            group["lr"] = 0.01 / max(np.mean(self.losses), 0.1)


def model_of(folder, **settings):
    settings = {"backbone": load_backbone(network()), "checkpoint": folder} | SETTINGS | settings
    return FineTunedClassifier(**settings)


def interrupted(folder, X, y, moments, **settings):
    """Fit a model that is ended at some batches, and goes on until the next."""
    for n in moments:
        with killed_at(n):
            model_of(folder, **settings).fit(X, y)
    return model_of(folder, **settings).fit(X, y)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A model whose training was not interrupted, and the folder of its checkpoint."""
    folder = tmp_path_factory.mktemp("finished")
    return model_of(folder).fit(*vectors()), folder


def content(model) -> tuple:
    """All that a fit leaves, times excepted."""
    tensors = {k: v.numpy().tobytes() for k, v in model.net_.module_.state_dict().items()}
    state = model.net_.optimizer_.state_dict()["state"]
    moments = {k: {n: torch.as_tensor(t).tolist() for n, t in v.items()} for k, v in state.items()}
    rows = [{k: v for k, v in row.items() if k != "dur"} for row in model.history_]
    return tensors, moments, rows, model.best_epoch_, model.lr_


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"validation_fraction": 0.2, "callbacks": [EarlyStopping(patience=2)], "lr": 0.05},
        {"trainable": "head", "net_params": SGD},
        {
            "trainable": "all",
            "train_batch_norm": True,
            "callbacks": [Freezer("body.0.*"), Unfreezer("body.0.*", at=3)],
        },
        {"callbacks": [Mean(), GradientNormClipping(1.0)], "layer_decay": 0.5},
        {
            "callbacks": [
                EpochScoring("accuracy", lower_is_better=False),
                LRScheduler(ReduceLROnPlateau, patience=0, monitor="train_loss"),
            ],
            "validation_fraction": 0.2,
        },
        {"net_params": {"optimizer__amsgrad": True}, "trainable": "norm", "lr": "auto"},
    ],
    ids=["plain", "stopping", "head", "all", "callback", "scheduler", "norm"],
)
def test_an_interrupted_fit_ends_where_another_does(settings, data, tmp_path):
    X, y = data
    whole = model_of(None, **settings).fit(X, y)
    n_batches = len(whole.history_) * whole.history_[0]["train_batch_count"]
    moments = [0, n_batches // 3, n_batches // 4]  # counted from the last checkpoint
    parts = interrupted(tmp_path, X, y, moments, **settings)
    assert content(parts) == content(whole)
    assert np.array_equal(parts.predict_proba(X), whole.predict_proba(X))
    again = model_of(tmp_path, **settings).fit(X, y)
    assert content(again) == content(whole)


@pytest.mark.slow
@pytest.mark.parametrize("n_views", [None, 2])
def test_views_of_images_are_those_of_the_whole_training(n_views, tmp_path):
    X, y = images(24), np.array(["ant", "bee"] * 12)
    settings = {"backbone": tiny_backbone(), "augment": Augmentation(n_views=n_views)}
    settings |= {"max_epochs": 3, "trainable": 1, "batch_size": 8}
    whole = model_of(None, **settings).fit(X, y)
    assert content(interrupted(tmp_path, X, y, [4], **settings)) == content(whole)


def test_word_vectors_and_their_rows(tmp_path):
    words = dict(zip("abcd", np.eye(4, 6, dtype=np.float32), strict=True))
    X, y = ["a b", "b c", "d", "a a d"] * 6, np.array([0, 1, 1, 0] * 6)
    settings = {"backbone": load_word_vectors(words), "trainable": "all", "batch_size": 8}
    whole = model_of(None, **settings).fit(X, y)
    assert content(interrupted(tmp_path, X, y, [7], **settings)) == content(whole)


def test_a_regressor_goes_on_too(data, tmp_path):
    X, y = data[0], data[0][:, :2] * 1000 + 5
    whole, parts = (
        FineTunedRegressor(load_backbone(network()), checkpoint=folder, **SETTINGS)
        for folder in (None, tmp_path)
    )
    whole.fit(X, y)
    with killed_at(10):
        parts.fit(X, y)
    parts.fit(X, y)
    assert content(parts) == content(whole)
    assert np.array_equal(parts.predict(X), whole.predict(X))


def test_a_seed_that_was_drawn_is_that_of_the_fit_that_began(data, tmp_path):
    X, y = data
    with killed_at(5):
        model_of(tmp_path, random_state=None).fit(X, y)
    parts = model_of(tmp_path, random_state=None).fit(X, y)
    again = model_of(tmp_path, random_state=np.random.RandomState(5)).fit(X, y)
    assert content(parts) == content(again)
    assert content(model_of(None, random_state=None).fit(X, y)) != content(parts)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"lr": 0.02}, "lr"),
        ({"max_epochs": 7, "layer_decay": 0.1}, "layer_decay, max_epochs"),
        ({"random_state": 1}, "random_state"),
        ({"head": lambda n, k: torch.nn.Linear(n, k)}, "head"),
        ({"callbacks": [Mean()]}, "callbacks"),
        ({"X": 1}, "X"),
        ({"y": 1}, "y"),
        ({"names": 1}, "y"),
        ({"sample_weight": 1}, "sample_weight"),
        ({"backbone": 1}, "backbone"),
    ],
)
def test_other_data_and_parameters_are_refused_by_name(change, names, data, finished):
    X, y = data
    _, folder = finished
    change = dict(change)
    order = np.roll(np.arange(len(X)), 1)
    X = X[order] if change.pop("X", None) else X
    y = y[::-1].copy() if change.pop("y", None) else y
    y = np.char.add(y, "s") if change.pop("names", None) else y
    weight = np.linspace(1, 2, len(X)) if change.pop("sample_weight", None) else None
    if change.get("backbone"):
        change["backbone"] = load_backbone(torch.nn.Sequential(network(), torch.nn.Linear(4, 4)))
    message = rf"other values of {names}\. .*delete '.*{FILE}'"
    with pytest.raises(ValueError, match=message):
        model_of(folder, **change).fit(X, y, weight)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"validation_fraction": 0.2}, pytest.param({}, marks=pytest.mark.sweep)]
)
def test_a_finished_training_goes_on_with_more_epochs(settings, data, tmp_path):
    short = model_of(tmp_path, **settings).fit(*data)
    long = model_of(tmp_path, max_epochs=9, **settings).fit(*data)
    assert len(short.history_) == 6
    assert long.history_[:6] == short.history_
    rates = [row["event_lr"] for row in long.net_.history[6:, "batches", 0]]
    assert rates[0] < max(rates)  # a schedule of its own
    assert np.isclose(max(rates), 0.01, rtol=0.2)
    # It is one training: killed in between, it ends bit for bit in the same state.
    other = tmp_path / "other"
    model_of(other, **settings).fit(*data)
    with killed_at(4):
        model_of(other, max_epochs=9, **settings).fit(*data)
    again = model_of(other, max_epochs=9, **settings).fit(*data)
    assert content(again) == content(long)
    with pytest.raises(ValueError, match="max_epochs"):
        model_of(tmp_path, max_epochs=8, **settings).fit(*data)


def test_a_training_that_patience_has_ended_goes_on_from_its_best_epoch(data, tmp_path):
    settings = {"validation_fraction": 0.3, "callbacks": [EarlyStopping(patience=1)], "lr": 0.3}
    short = model_of(tmp_path, max_epochs=20, **settings).fit(*data)
    assert len(short.history_) < 20
    long = model_of(tmp_path, max_epochs=25, **settings).fit(*data)
    assert len(long.history_) >= len(short.history_)
    best = min(row["valid_loss"] for row in short.history_)
    assert min(row["valid_loss"] for row in long.history_) <= best


FACTOR = 1.0


class Hidden(nn.Module):
    """A stage that uses a number which no description of its code shows."""

    def forward(self, x):
        return x * globals()["FACTOR"]


def hidden():
    return load_backbone(nn.Sequential(Hidden(), *network()))


def test_a_network_that_computes_something_else_is_refused(data, tmp_path, monkeypatch):
    X, y = data
    with killed_at(7):
        model_of(tmp_path, backbone=hidden()).fit(X, y)
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    with pytest.raises(ValueError, match=r"loss on its first batch was .* with the same weights"):
        model_of(tmp_path, backbone=hidden()).fit(X, y)
    monkeypatch.setitem(globals(), "FACTOR", 1.0)
    assert len(model_of(tmp_path, backbone=hidden()).fit(X, y).history_) == SETTINGS["max_epochs"]


def test_how_it_runs_may_change(data, finished, tmp_path):
    first, folder = finished
    settings = {"n_jobs": 2, "memory": tmp_path / "store", "verbose": 1, "engine": "torch"}
    assert content(model_of(folder, **settings).fit(*data)) == content(first)


def test_a_warm_start_is_another_training(data, tmp_path):
    X, y = data
    model = model_of(tmp_path / "a", warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"other values of warm_start\."):
        model.fit(X, y)
    before = content(model)
    model.set_params(checkpoint=tmp_path / "b").fit(X, y)
    assert content(model)[0] != before[0]


def test_partial_fit_writes_and_reads_no_checkpoint(data, tmp_path):
    X, y = data
    model = model_of(tmp_path).fit(X[:60], y[:60])
    before = (tmp_path / FILE).read_bytes()
    model.partial_fit(X[60:], y[60:])
    model_of(tmp_path / "none").partial_fit(X, y)
    assert (tmp_path / FILE).read_bytes() == before
    assert not (tmp_path / "none").exists()


def test_the_net_can_be_pickled_and_trained_further_without_the_file(data, finished):
    X, y = data
    model, folder = finished
    before = (folder / FILE).read_bytes()
    net = pickle.loads(pickle.dumps(model.net_))
    net.partial_fit(net_inputs(model, X), np.searchsorted(model.classes_, y))
    assert len(net.history) == 2 * model.max_epochs
    assert (folder / FILE).read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: b"",
        lambda c: c[: len(c) // 2],
        lambda c: c[:100] + bytes([c[100] ^ 1]) + c[101:],
        lambda c: c[:-1] + bytes([c[-1] ^ 128]),
        lambda c: b"SKTCKPT9" + c[8:],
    ],
)
def test_a_damaged_file_is_told_and_training_begins_again(damage, data, finished, tmp_path):
    X, y = data
    whole, folder = finished
    (tmp_path / FILE).write_bytes(damage((folder / FILE).read_bytes()))
    with pytest.warns(UserWarning, match=r"training.checkpoint is damaged .* from the beginning"):
        again = model_of(tmp_path).fit(X, y)
    assert content(again) == content(whole)


def test_a_full_disk_is_a_warning_and_the_last_file_stays(data, finished, tmp_path, monkeypatch):
    X, y = data
    whole, _ = finished
    with killed_at(7):
        model_of(tmp_path).fit(X, y)
    before = (tmp_path / FILE).read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.os, "fsync", full)
    with pytest.warns(UserWarning, match=r"could not be written \(.*No space left"):
        model = model_of(tmp_path).fit(X, y)
    assert content(model) == content(whole)
    assert (tmp_path / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_folder_that_cannot_be_made_is_named(data, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"checkpoint='.*file' cannot be used"):
        model_of(str(tmp_path / "file")).fit(*data)


class Opened(Callback):
    def on_train_begin(self, net, **kwargs):
        self.log = object()


def test_a_callback_that_cannot_be_kept_is_named(data, tmp_path):
    with pytest.raises(TypeError, match=r"the attribute 'log' of the callback 'Opened'.*a object"):
        model_of(tmp_path, callbacks=[Opened()]).fit(*data)


# searches


def search(folder, **settings):
    """Two learning rates on two folds, and a fit on all samples: five trainings."""
    models = model_of(folder, max_epochs=2)
    return GridSearchCV(models, {"lr": [0.01, 0.02]}, cv=2, error_score="raise", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["threading", pytest.param("loky", marks=pytest.mark.sweep)])
def test_each_fit_of_a_search_has_its_own_folder(backend, data, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    X, y = data
    alone = search(None).fit(X, y)
    with joblib.parallel_config(backend):
        found = search(f"{tmp_path}/run/{{key}}", n_jobs=2).fit(X, y)
    assert content(found.best_estimator_) == content(alone.best_estimator_)
    before = files_in(tmp_path)
    assert [name for name, _ in before if name == FILE] == [FILE] * 5
    again = search(tmp_path / "run" / "{key}").fit(X, y)
    assert files_in(tmp_path) == before  # nothing was trained again
    for name in ("mean_test_score", "split0_test_score"):
        assert again.cv_results_[name].tolist() == alone.cv_results_[name].tolist()


def test_a_search_with_one_folder_says_what_to_do(data, tmp_path):
    with joblib.parallel_config("threading"), pytest.raises(ValueError, match=r"/\{key\}'"):
        search(tmp_path, n_jobs=2).fit(*data)


def test_of_two_fits_that_begin_together_one_has_the_folder(data, finished, tmp_path):
    """The other one is told before it has trained, though no epoch is complete yet."""
    X, y = data
    with killed_at(0):
        model_of(tmp_path).fit(X, y)
    with killed_at(0):
        model_of(tmp_path).fit(X, y)
    with pytest.raises(ValueError, match=r"other values of lr\."):
        model_of(tmp_path, lr=0.02).fit(X, y)
    assert content(model_of(tmp_path).fit(X, y)) == content(finished[0])


# killed processes

PROGRAM = """
import sys
import numpy as np
import torch
from skorch.callbacks import EarlyStopping
from sktransfer import FineTunedClassifier, load_backbone
from tests.finetuning.conftest import network
X = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
y = np.where(X[:, 0] * X[:, 1] > 0, "ant", "bee")
def fit(folder):
    model = FineTunedClassifier(
        load_backbone(network()), trainable="all", max_epochs=12, head="mlp",
        validation_fraction=0.2, callbacks=[EarlyStopping(patience=10)],
        random_state=0, checkpoint=folder,
    )
    return model.fit(X, y)
"""


def run_fit(folder):
    """Fit in this process, which another one will kill."""
    names: dict = {}
    exec(PROGRAM, names)
    names["fit"](folder)
    os._exit(0)


def write_result(folder, path):
    names: dict = {}
    exec(PROGRAM, names)
    model = names["fit"](folder)
    Path(path).write_bytes(repr(content(model)).encode())
    return content(model)


def files_in(folder):
    """The files of a folder with the times when they were written."""
    found = []
    for path in Path(folder).rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a temporary file
            found.append((path.name, path.stat().st_mtime_ns))
    return sorted(found)


def test_a_process_that_is_killed_leaves_a_training_to_go_on(tmp_path):
    whole = write_result(None, tmp_path / "whole")
    context, rng = multiprocessing.get_context("fork"), np.random.default_rng(0)
    ended = []
    for _ in range(2):
        child = context.Process(target=run_fit, args=(tmp_path / "run",))
        before = files_in(tmp_path / "run")
        child.start()
        while child.is_alive() and files_in(tmp_path / "run") == before:  # until it is training
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        ended.append(child.exitcode)
    assert -signal.SIGKILL in ended
    assert write_result(tmp_path / "run", tmp_path / "parts") == whole


@pytest.mark.sweep
def test_a_program_that_is_killed_at_any_moment_ends_where_another_does(tmp_path):
    end = "\nfrom tests.finetuning.test_checkpoint import content"
    end += "\nprint(repr(content(fit(sys.argv[1] or None))))"
    begin = "\nprint('ready', flush=True)\nwhile True:\n    fit(sys.argv[1])\n"
    whole = run_python(PROGRAM + end, "")
    rng, root = np.random.default_rng(1), Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    n_killed = 0
    for k in range(20):
        folder = tmp_path / str(k // 4)  # four kills of each training, five trainings
        command = [sys.executable, "-c", PROGRAM + begin, str(folder)]
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(rng.uniform(0, 1.0))
        child.kill()
        n_killed += child.wait() == -signal.SIGKILL
        if k % 4 == 3:
            assert run_python(PROGRAM + end, folder) == whole
    assert n_killed == 20
