"""Training in several processes, which exchange tensors by gloo.

Each of them imports torch, which takes seconds: these tests belong to the sweep. What the processes
say to each other is tested with threads in ``test_leader.py``.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import torch.distributed as dist
from skorch.callbacks import Callback

from sktransfer import FineTunedClassifier, FineTunedRegressor
from sktransfer.finetuning.parallel import ProcessLostError
from sktransfer.persistence import load, save
from tests.features.shards.support import write_files
from tests.finetuning.conftest import network
from tests.finetuning.parallel.test_leader import CLOSE, assert_same
from tests.support import TESTS

pytestmark = [pytest.mark.sweep, pytest.mark.integration]

SETTINGS = {"max_epochs": 3, "batch_size": 16, "lr": 1e-3, "random_state": 0, "device": "cpu"}


def children():
    return psutil.Process().children(recursive=True)


@pytest.mark.parametrize("trainable", ["head", 1, "all"])
def test_two_processes_train_as_one(data, trainable, tmp_path):
    X, y = data
    weight = np.random.default_rng(0).uniform(0.1, 3, len(y))
    settings = SETTINGS | {"trainable": trainable, "validation_fraction": 0.2}
    make = [FineTunedClassifier(network(), devices=n, **settings) for n in (None, 2)]
    before, n_threads = {p.pid for p in children()}, torch.get_num_threads()
    one, two = (model.fit(X, y, sample_weight=weight) for model in make)
    assert_same(one, two, X)
    assert {p.pid for p in children() if p.is_running()} <= before | _tracker()
    assert not dist.is_initialized()
    assert torch.get_num_threads() == n_threads
    for number, model in enumerate((one, two)):
        save(model, tmp_path / f"{number}.sktransfer")
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert abs(sizes[0] - sizes[1]) < 200  # the numbers of the history have other digits
    again = load(tmp_path / "1.sktransfer", modules={"sequential": network})
    np.testing.assert_array_equal(again.predict_proba(X), two.predict_proba(X))


def _tracker():
    """The process that joblib keeps, which removes files that others leave."""
    return {p.pid for p in children() if "resource_tracker" in " ".join(p.cmdline())}


def test_three_processes_and_numbers(data):
    X, _ = data
    values = X.sum(axis=1)
    one, three = (
        FineTunedRegressor(network(), devices=n, trainable="all", **SETTINGS).fit(X, values)
        for n in (None, 3)
    )
    assert_same(one, three, X)


class Kill(Callback):
    """Kills another process of the training in its second step."""

    def on_batch_begin(self, net, training=None, **kwargs):
        self.n_ = getattr(self, "n_", 0) + 1
        if self.n_ == 2:
            found = [p for p in children() if "popen_loky" in " ".join(p.cmdline())]
            os.kill(found[0].pid, signal.SIGKILL)


def test_a_killed_process_raises_one_error(data):
    X, y = data
    settings = SETTINGS | {"trainable": "all", "callbacks": [Kill()]}
    model = FineTunedClassifier(network(), devices=3, **settings)
    with pytest.raises(ProcessLostError, match=r"devices=3: a process .* has ended.*SIGKILL"):
        model.fit(X, y)
    assert not hasattr(model, "classes_")
    assert not dist.is_initialized()
    assert not [p for p in children() if "popen_loky" in " ".join(p.cmdline())]
    model.set_params(callbacks=None, devices=2).fit(X, y)  # the next one begins anew


class Meets(Callback):
    """Starts another training in a thread while this one has its processes."""

    def __init__(self, fit):
        self.fit = fit

    def __deepcopy__(self, memo):
        return self

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 1:
            self.thread = threading.Thread(target=self.fit)
            self.thread.start()
            time.sleep(2)


@pytest.mark.parametrize("devices", [2, 3])
def test_trainings_in_threads_wait_for_each_other(data, devices):
    X, y = data
    second = FineTunedClassifier(network(), devices=devices, **SETTINGS)
    meets = Meets(lambda: second.fit(X, y))
    first = FineTunedClassifier(network(), devices=2, callbacks=[meets], **SETTINGS).fit(X, y)
    meets.thread.join()
    np.testing.assert_allclose(first.predict_proba(X), second.predict_proba(X), **CLOSE)


def test_a_training_within_another_one_says_so(data):
    X, y = data
    inner = FineTunedClassifier(network(), devices=2, **SETTINGS)

    class Within(Callback):
        def on_epoch_begin(self, net, **kwargs):
            inner.fit(X, y)

    outer = FineTunedClassifier(network(), devices=2, callbacks=[Within()], **SETTINGS)
    with pytest.raises(ValueError, match="called within another one on several devices"):
        outer.fit(X, y)


SCRIPT = """
import os, sys
import numpy as np
from sktransfer import FineTunedClassifier
from tests.finetuning.conftest import network
from sklearn.datasets import make_blobs

class Own(__import__("torch").nn.Linear):  # of a script without a guard
    pass

X, y = make_blobs(90, 6, centers=3, cluster_std=4.0, random_state=0)
y = np.array(["ant", "bee", "wasp"])[y]
model = FineTunedClassifier(
    network(), devices=DEVICES, trainable="all", head=Own, head_init="random", device="cpu",
    max_epochs=EPOCHS, batch_size=16, lr=1e-3, random_state=0,
)
if "BAR" in os.environ:
    model.set_callbacks(__import__("sklearn.callback", fromlist=["ProgressBar"]).ProgressBar())
print("begin", flush=True)
model.fit(X.astype("float32"), y)
P = model.predict_proba(X.astype("float32"))
assert type(model.net_.module_.head).__name__ == "Own"
if "OUT" in os.environ:
    np.save(os.environ["OUT"] + os.environ.get("RANK", ""), P)
"""


def write_script(folder: Path, devices: str, epochs: int = 3) -> Path:
    path = folder / f"script_{devices.strip(chr(34))}.py"
    path.write_text(SCRIPT.replace("DEVICES", devices).replace("EPOCHS", str(epochs)))
    return path


def environment(**more) -> dict:
    path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | more


def test_a_script_without_a_guard(tmp_path):
    for devices in ("None", "2"):
        script = write_script(tmp_path, devices)
        env = environment(OUT=str(tmp_path / devices))
        subprocess.run([sys.executable, script], check=True, env=env, timeout=300)
    a, b = (np.load(tmp_path / f"{devices}.npy") for devices in ("None", "2"))
    np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)


def test_an_interruption_ends_all_processes(tmp_path, interrupts):
    script = write_script(tmp_path, "3", epochs=10**6)
    process = subprocess.Popen(
        [sys.executable, script],
        env=environment(),
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    parent = psutil.Process(process.pid)
    deadline = time.monotonic() + 120
    while len(workers(parent)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    found = parent.children(recursive=True)
    time.sleep(8)  # they train
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    _, alive = psutil.wait_procs(found, timeout=30)
    assert not alive


def workers(process: psutil.Process) -> list:
    return [p for p in process.children(recursive=True) if "popen_loky" in " ".join(p.cmdline())]


LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29511"],
    "accelerate": [
        # What it starts for GPUs; for a CPU it leaves several processes to MPI.
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", "29512"),
    ],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_processes_of_a_launcher(launcher, tmp_path):
    if launcher == "accelerate":
        pytest.importorskip("accelerate")
    plain = write_script(tmp_path, "None")
    env = environment(OUT=str(tmp_path / "plain"))
    subprocess.run([sys.executable, plain], check=True, env=env, timeout=300)
    script = write_script(tmp_path, '"all"')
    env = environment(OUT=str(tmp_path / "rank"), BAR="1")
    command = [sys.executable, *LAUNCHERS[launcher], script]
    subprocess.run(command, check=True, env=env, timeout=300)
    plain, first, second = (np.load(tmp_path / f"{n}.npy") for n in ("plain", "rank0", "rank1"))
    np.testing.assert_allclose(first, plain, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(first, second)


def test_an_error_ends_all_processes_of_a_launcher(tmp_path):
    script = write_script(tmp_path, "3")  # and two processes
    command = [sys.executable, *LAUNCHERS["torchrun"], script]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert ended.returncode != 0
    assert ended.stderr.count("devices=3: the launcher has started 2 processes") >= 2


def test_the_script_of_the_guide(tmp_path):
    pytest.importorskip("accelerate")
    paths = write_files(tmp_path / "x", 20)
    table = pd.DataFrame({"path": paths, "label": ["a", "b"] * 10})
    table.to_parquet(tmp_path / "photos.parquet")
    page = (TESTS.parent / "docs" / "guide" / "finetuning.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"<!-- recipe: accelerate -->\n```py\n(.*?)```", page, re.DOTALL)
    (tmp_path / "train.py").write_text(script)
    command = [sys.executable, *LAUNCHERS["accelerate"], "train.py"]
    subprocess.run(command, check=True, env=environment(), cwd=tmp_path, timeout=300)
    expected = FineTunedClassifier(trainable=1, max_epochs=2, random_state=0).fit(
        paths, table["label"]
    )
    found = joblib.load(tmp_path / "model.joblib").predict_proba(paths)
    np.testing.assert_allclose(found, expected.predict_proba(paths), rtol=1e-3, atol=1e-5)
