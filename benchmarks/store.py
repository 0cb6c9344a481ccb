"""Measure the time to store and to find features, and to digest images.

Samples a second to put and to get 1,280 values of float32, 128 samples at a time. "Opened anew"
is what each new process does. "Shuffled" finds the samples in another order than they were
stored in.

    python benchmarks/store.py
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from subprocess import PIPE

import joblib
import numpy as np
from _common import Case, interleave, parser, record

from sktransfer import FeatureStore
from sktransfer.data import get_modality

N, WIDTH, BATCH = 20_480, 1280, 128
QUICK = {"rounds": 3}
ONE_FILE = "one .npy file for each call"
FEW = slice(0, 4 * BATCH)  # for stores that need a file for each sample
VALUES = np.random.default_rng(0).standard_normal((N, WIDTH), np.float32)
digest = get_modality("image").digest
KEYS = [digest(row) for row in VALUES]
SHUFFLED = np.random.default_rng(1).permutation(N)
RECIPE = "a recipe of the usual length, with a fingerprint of 64 characters in it" * 3
PARTS = [slice(i, i + BATCH) for i in range(0, N, BATCH)]
PROCESS = """
import sys, time
from sktransfer import FeatureStore
import sktransfer.data
store, recipe = FeatureStore(sys.argv[1]), sys.argv[2]
keys = [bytes.fromhex(line.strip()) for line in sys.stdin]
parts = [keys[i : i + 128] for i in range(0, len(keys), 128)]
for _ in range(7):
    start, used = time.perf_counter(), time.process_time()
    assert all(value is not None for part in parts for value in store.get(recipe, part))
    print(time.perf_counter() - start, time.process_time() - used, flush=True)
"""


def value_of(i: int) -> np.ndarray:
    return VALUES[i]


def put_store(path: Path) -> FeatureStore:
    store = FeatureStore(path)
    for part in PARTS:
        store.put(RECIPE, KEYS[part], VALUES[part])
    return store


def get_store(store: FeatureStore, keys: list[bytes] = KEYS) -> list[np.ndarray]:
    return [row for part in PARTS for row in store.get(RECIPE, keys[part])]


def put_arrays(path: Path) -> Path:
    path.mkdir()
    for part in PARTS:
        np.save(path / f"{part.start}.npy", VALUES[part])
    return path


def get_arrays(path: Path) -> list[np.ndarray]:
    return [row for part in PARTS for row in np.load(path / f"{part.start}.npy")]


def put_files(path: Path) -> Path:
    path.mkdir()
    for key, value in zip(KEYS[FEW], VALUES[FEW], strict=True):
        np.save(path / f"{key.hex()}.npy", value)
    return path


def get_files(path: Path) -> list[np.ndarray]:
    return [np.load(path / f"{key.hex()}.npy") for key in KEYS[FEW]]


def put_joblib(path: Path):
    cached = joblib.Memory(path, verbose=0).cache(value_of)
    for i in range(FEW.stop):
        cached(i)
    return cached


def measure_store(root: Path, rounds: int) -> list[Case]:
    folders = (root / str(i) for i in itertools.count())
    puts = {
        ONE_FILE: (put_arrays, N),
        "FeatureStore": (put_store, N),
        "one .npy file for each sample": (put_files, FEW.stop),
        "joblib.Memory": (put_joblib, FEW.stop),
    }
    arrays, store, files, cached = (put(next(folders)) for put, _ in puts.values())
    shuffled = [KEYS[i] for i in SHUFFLED]
    gets = {
        ONE_FILE: (lambda: get_arrays(arrays), N),
        "FeatureStore": (lambda: get_store(store), N),
        "FeatureStore, opened anew": (lambda: get_store(FeatureStore(store.location)), N),
        "FeatureStore, shuffled": (lambda: get_store(store, shuffled), N),
        "one .npy file for each sample": (lambda: get_files(files), FEW.stop),
        "joblib.Memory": (lambda: [cached(i) for i in range(FEW.stop)], FEW.stop),
    }
    for name, (run, n) in gets.items():
        expected = VALUES[SHUFFLED] if "shuffled" in name else VALUES[:n]
        np.testing.assert_array_equal(run(), expected, err_msg=name)
    print("put")
    put = rates(measure_puts(puts, folders, rounds), {name: n for name, (_, n) in puts.items()})
    print("get")
    times = interleave({k: run for k, (run, _) in gets.items()}, rounds)
    get = rates(times, {name: n for name, (_, n) in gets.items()})
    aims = {"FeatureStore": 0.5}
    return [
        Case("put", "samples/s", put, ONE_FILE, aims),
        Case("get", "samples/s", get, ONE_FILE, note="equal to what was put"),
    ]


def rates(times: dict[str, list[float]], counts: dict[str, int]) -> dict[str, list[float]]:
    return {name: [counts[name] / seconds for seconds in each] for name, each in times.items()}


def measure_puts(puts: dict, folders: Iterator[Path], rounds: int) -> dict[str, list[float]]:
    """Put into new folders, which are removed outside of the timed calls."""
    times: dict[str, list[float]] = {name: [] for name in puts}
    for _ in range(rounds):
        used = [next(folders) for _ in puts]
        pairs = zip(puts.items(), used, strict=True)
        runs = {name: functools.partial(put, folder) for (name, (put, _)), folder in pairs}
        for name, seconds in interleave(runs, 1).items():
            times[name] += seconds
        for folder in used:
            shutil.rmtree(folder)
    return times


def measure_processes(root: Path) -> list[Case]:
    """Count the features that processes find in a second: of wall-clock and of processor time."""
    store = put_store(root / "processes")
    lines = "\n".join(key.hex() for key in KEYS)
    command = [sys.executable, "-c", PROCESS, str(store.location), RECIPE]
    by_clock, by_processor = {}, {}
    for name, n in {"one process": 1, "two processes, each": 2}.items():
        started = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) for _ in range(n)]
        with ThreadPool(n) as pool:
            outputs = pool.map(lambda process: process.communicate(lines)[0], started)
        times = np.array([[line.split() for line in out.splitlines()] for out in outputs], float)
        slowest = (N / times).min(axis=0)  # (round, clock or processor)
        by_clock[name], by_processor[name] = slowest.T.tolist()
    return [
        Case("get in processes", "samples/s", by_clock),
        Case("get in processes, processor time", "samples/s", by_processor),
    ]


def measure_digest(rounds: int) -> Case:
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    calls = 200
    digests = {
        "sktransfer (xxh3_128)": digest,
        "sha256": lambda x: hashlib.sha256(x).digest(),
        "blake2b": lambda x: hashlib.blake2b(x).digest(),
        "joblib.hash": joblib.hash,
    }
    other = image.copy()
    for name, run in digests.items():
        assert run(image) == run(other), name
    other[0, 0, 0] ^= 1
    for name, run in digests.items():
        assert run(image) != run(other), name
    variants = {k: lambda f=f: [f(image) for _ in range(calls)] for k, f in digests.items()}
    print("digest")
    times = interleave(variants, rounds)
    values = {name: [1e6 * t / calls for t in each] for name, each in times.items()}
    return Case("digest of 150,528 bytes", "µs", values, next(iter(values)))


def main() -> None:
    args = parser(__doc__, rounds=7, quick=QUICK).parse_args()
    with tempfile.TemporaryDirectory() as root:
        cases = measure_store(Path(root), args.rounds) + measure_processes(Path(root))
    record(__file__, args, [*cases, measure_digest(args.rounds)])


if __name__ == "__main__":
    main()
