"""Fitted objects in threads, as in a service, and in all kinds of processes."""

import contextlib
import functools
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import joblib
import numpy as np
import psutil
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from sktransfer import FineTunedClassifier, PretrainedClassifier, PretrainedFeatureExtractor
from tests.support import TESTS, give_memory_back, images, tiny_backbone

X, Y = images(16), np.array(["ant", "bee"] * 8)
MODELS = {
    "features": lambda memory: make_pipeline(
        PretrainedFeatureExtractor(tiny_backbone(), memory=memory), LogisticRegression()
    ),
    "direct": lambda memory: PretrainedClassifier(tiny_backbone(), memory=memory),
    "tuned": lambda memory: FineTunedClassifier(
        tiny_backbone(), trainable=1, max_epochs=2, random_state=0, memory=memory
    ),
}


def serve(model, n: int, wanted: np.ndarray) -> None:
    """Predict single samples and small batches in eight threads, and compare with one call."""

    def answer(i):
        rows = [i % 16, (i * 7) % 16][: 1 + i % 2]
        found = model.predict_proba([X[row] for row in rows])
        np.testing.assert_allclose(found, wanted[rows], rtol=1e-5, atol=1e-6)

    with ThreadPoolExecutor(8) as threads:
        for _ in threads.map(answer, range(n)):
            pass


@pytest.mark.parametrize("name", MODELS)
def test_a_service_of_eight_threads_answers_as_one_call_does(name, tmp_path):
    model = MODELS[name](tmp_path).fit(X, Y)
    serve(model, 100, model.predict_proba(X))


def resident() -> int:
    """Bytes that objects in use take. Freed pages, which arenas of threads keep, are given back."""
    give_memory_back()
    return psutil.Process().memory_info().rss


ROUND, MOST = 4000, 400  # answers; bytes for each


def growth(model, wanted: np.ndarray) -> float:
    """Bytes for each answer by which the process grows, the median of rounds.

    An arena of a thread that is touched for the first time is in one round, a leak is in all.
    """
    serve(model, 3000, wanted)
    sizes, n_objects = [resident()], len(gc.get_objects())
    for _ in range(5):
        serve(model, ROUND, wanted)
        sizes.append(resident())
    assert len(gc.get_objects()) - n_objects < 500
    assert psutil.Process().num_threads() < 60
    assert sizes[-1] - sizes[0] < 25 * 2**20
    return float(np.median(np.diff(sizes))) / ROUND


@pytest.mark.sweep
@pytest.mark.parametrize("name", MODELS)
def test_twenty_thousand_answers_are_equal_and_memory_does_not_grow(name):
    model = MODELS[name](None).fit(X, Y)
    assert growth(model, model.predict_proba(X)) < MOST


class Leaking:
    """Keeps a kilobyte of each answer."""

    def __init__(self, answers: np.ndarray):
        self.answers = {x.tobytes(): row for x, row in zip(X, answers, strict=True)}
        self.kept: list[bytes] = []

    def predict_proba(self, rows):
        self.kept.append(os.urandom(1000))
        return np.array([self.answers[row.tobytes()] for row in rows])


@pytest.mark.sweep
def test_a_kilobyte_for_each_answer_would_be_seen():
    wanted = np.random.default_rng(0).uniform(size=(16, 2))
    assert growth(Leaking(wanted), wanted) > MOST


# processes


def scores(n_jobs) -> list[float]:
    model = MODELS["features"](None)
    return cross_val_score(model, X, Y, cv=2, n_jobs=n_jobs, error_score="raise").tolist()


@pytest.mark.integration
@pytest.mark.parametrize(
    "backend", ["threading", "multiprocessing", pytest.param("loky", marks=pytest.mark.sweep)]
)
def test_folds_in_all_backends_of_joblib_score_the_same(backend):
    alone = scores(1)
    with joblib.parallel_config(backend, n_jobs=2):
        assert scores(None) == alone


def nested(_) -> list[float]:
    search = GridSearchCV(
        MODELS["features"](None), {"logisticregression__C": [0.1, 1.0]}, cv=2, n_jobs=2
    )
    return search.fit(X, Y).cv_results_["mean_test_score"].tolist()


@pytest.mark.sweep
def test_a_search_in_processes_of_a_search_scores_the_same():
    alone = nested(None)
    for backend in ("loky", "threading"):
        with joblib.parallel_config(backend):
            assert joblib.Parallel(2)(joblib.delayed(nested)(i) for i in range(2)) == [alone] * 2


def predict(model, rows) -> np.ndarray:
    return model.predict_proba(rows)


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("name", MODELS)
def test_a_fitted_object_predicts_in_processes_of_each_kind(name, method, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    model = MODELS[name](None).fit(X, Y)
    wanted = model.predict_proba(X)
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        parts = list(pool.map(functools.partial(predict, model), [X[:8], X[8:]]))
    np.testing.assert_allclose(np.vstack(parts), wanted, rtol=1e-5, atol=1e-6)


PROGRAM = """
import sys
import joblib
from sklearn.model_selection import cross_val_score
from tests.test_concurrency import MODELS, X, Y
if __name__ == "__main__":
    print("ready", flush=True)
    try:
        while True:
            with joblib.parallel_config(sys.argv[2], n_jobs=2):
                cross_val_score(MODELS["features"](sys.argv[1]), X * 20, list(Y) * 20, cv=4)
    except BaseException as error:
        print(type(error).__name__, flush=True)
"""


def started(folder, backend):
    """Start a program that fits models in two workers, and say so when it does."""
    (folder / "program.py").write_text(PROGRAM)
    running = subprocess.Popen(
        [sys.executable, str(folder / "program.py"), str(folder / "store"), backend],
        env=os.environ | {"PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert running.stdout.readline() == "ready\n"
    return running


def assert_ended(running, children, error):
    output, _ = running.communicate(timeout=120)
    assert error in output
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


def assert_sound(store):
    model = MODELS["features"](store).fit(X, Y)
    wanted = MODELS["features"](None).fit(X, Y).predict_proba(X)
    np.testing.assert_allclose(model.predict_proba(X), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.sweep
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_an_interrupt_ends_a_program_and_its_workers_and_leaves_the_store_sound(
    backend, tmp_path, interrupts
):
    for seconds in (2.0, 5.0):
        running = started(tmp_path, backend)
        time.sleep(seconds)
        children = psutil.Process(running.pid).children(recursive=True)
        # joblib collects garbage before it forks, and Python drops an interrupt that arrives in a
        # callback of the collector: then the program goes on, and the next one ends it.
        for _ in range(5):
            os.killpg(running.pid, signal.SIGINT)  # as a terminal does, workers included
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(30)
                break
        assert_ended(running, children, "KeyboardInterrupt")
    assert_sound(tmp_path / "store")


@pytest.mark.sweep
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_an_interrupt_of_one_worker_is_an_error_of_the_program(tmp_path, interrupts):
    running, workers = started(tmp_path, "loky"), []
    while not workers:
        children = psutil.Process(running.pid).children(recursive=True)
        workers = [c for c in children if any("LokyProcess" in word for word in c.cmdline())]
        time.sleep(0.1)
    time.sleep(3.0)
    workers[0].send_signal(signal.SIGINT)
    assert_ended(running, children, "BrokenProcessPool")
    assert_sound(tmp_path / "store")
