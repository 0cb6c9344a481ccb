"""Measure the time to store and to find features, and to digest images.

Microseconds a sample to put and to get 1,280 float32, 400 samples at a time, for FeatureStore,
joblib.Memory and one .npy file for each sample; and to digest an image of 224 x 224 x 3 bytes.
"Opened anew" is what each `transform` of an extractor with `memory="folder"` does. It puts into a
new folder, as do the last two; the first one puts entries that exist. The result of get is
asserted to equal the argument of put.

    python benchmarks/store.py
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from pathlib import Path

import joblib
import numpy as np
from _common import interleave, parser, ratio, table

from sktransfer import FeatureStore
from sktransfer.data import digest

N, WIDTH = 400, 1280
VALUES = np.random.default_rng(0).normal(size=(N, WIDTH)).astype(np.float32)
KEYS = [digest(row) for row in VALUES]
RECIPE = "a recipe of the usual length, with a fingerprint of 64 characters in it" * 3


def value_of(i: int) -> np.ndarray:
    return VALUES[i]


def put_store(path: Path) -> FeatureStore:
    store = FeatureStore(path)
    store.put(RECIPE, KEYS, VALUES)
    return store


def put_files(path: Path) -> Path:
    path.mkdir()
    for key, value in zip(KEYS, VALUES, strict=True):
        np.save(path / f"{key.hex()}.npy", value)
    return path


def get_files(path: Path) -> list[np.ndarray]:
    return [np.load(path / f"{key.hex()}.npy") for key in KEYS]


def put_joblib(path: Path):
    cached = joblib.Memory(path, verbose=0).cache(value_of)
    for i in range(N):
        cached(i)
    return cached


def measure_store(root: Path, rounds: int) -> list[list]:
    folders = (root / str(i) for i in itertools.count())
    store, files, cached = (put(next(folders)) for put in (put_store, put_files, put_joblib))
    get = {
        "FeatureStore": lambda: store.get(RECIPE, KEYS),
        "FeatureStore, opened anew": lambda: FeatureStore(store.location).get(RECIPE, KEYS),
        "one .npy file each": lambda: get_files(files),
        "joblib.Memory": lambda: [cached(i) for i in range(N)],
    }
    for name, run in get.items():
        np.testing.assert_array_equal(run(), VALUES, err_msg=name)
    filled = FeatureStore(next(folders))
    filled.put(RECIPE, KEYS[:1], VALUES[:1])
    put = {
        "FeatureStore": lambda: filled.put(RECIPE, KEYS, VALUES),
        "FeatureStore, opened anew": lambda: put_store(next(folders)),
        "one .npy file each": lambda: put_files(next(folders)),
        "joblib.Memory": lambda: put_joblib(next(folders)),
    }
    print("put"), (puts := interleave(put, rounds))
    print("get"), (gets := interleave(get, rounds))
    return [
        [name, *(cell for t in (puts, gets) for cell in cells(t, name, "FeatureStore", N))]
        for name in get
    ]


def measure_digest(rounds: int) -> list[list]:
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
    print("digest"), (times := interleave(variants, rounds))
    return [[name, *cells(times, name, "sktransfer (xxh3_128)", calls)] for name in digests]


def cells(times: dict, name: str, base: str, calls: int) -> tuple[str, str]:
    microseconds = f"{np.median(times[name]) / calls * 1e6:.1f}"
    return microseconds, "1" if name == base else ratio(times[name], times[base])


def main() -> None:
    args = parser(__doc__, rounds=7).parse_args()
    with tempfile.TemporaryDirectory() as root:
        rows = measure_store(Path(root), args.rounds)
    digests = measure_digest(args.rounds)
    print(f"\nMicroseconds a sample, {N} samples of {WIDTH} float32 in one call")
    table(["store", "put", "times the first", "get", "times the first"], rows)
    print("\nMicroseconds for an image of 150,528 bytes")
    table(["digest", "time", "times the first"], digests)


if __name__ == "__main__":
    main()
