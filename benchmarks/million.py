"""Measure a store of a million samples, and a grid search over a million rows.

Seconds, and how far the peak of the memory of the process grows: to fill a store with 1,280 values
of float32 for each sample (5.3 GB), to open it as a new process does, and to read all and, in a
random order, a hundredth of it, 128 samples at a time. All that is read is asserted to be what was
put.

Then X is an array of as many rows of 8 numbers, which a layer of 16 outputs transforms, and a grid
search of 4 fits (two folds, two candidates) finds the features of all rows in the store. Each fit
and each score holds half of the features, 32 MB; nothing is asserted to be computed again.

    python benchmarks/million.py --record
    python benchmarks/million.py --samples 100000
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from _common import Case, count_forward, parser, record
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sktransfer import FeatureStore, PretrainedFeatureExtractor, load_backbone

N, WIDTH, BATCH = 20_480, 1280, 128
VALUES = np.random.default_rng(0).standard_normal((N, WIDTH), np.float32)
RECIPE = "a recipe of the usual length, with a fingerprint of 64 characters in it" * 3


class Steps:
    """Run steps and keep the seconds and the growth of the peak of the memory of each."""

    def __init__(self):
        self.seconds: dict[str, list[float]] = {}
        self.megabytes: dict[str, list[float]] = {}

    def run(self, name: str, step: Callable):
        start, before = time.perf_counter(), peak()
        result = step()
        self.seconds[name] = [time.perf_counter() - start]
        self.megabytes[name] = [peak() - before]
        print(f"  {name}: {self.seconds[name][0]:.1f} s, {self.megabytes[name][0]:.0f} MB")
        return result

    def cases(self, what: str, note: str) -> list[Case]:
        grown = {name: [max(0.0, each[0])] for name, each in self.megabytes.items()}
        return [
            Case(f"{what}: seconds", "s", self.seconds, note=note),
            Case(f"{what}: growth of the peak of memory", "MB", grown),
        ]


def peak() -> float:
    """Return the peak of the memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure_store(root: Path, n: int) -> list[Case]:
    store, steps = FeatureStore(root / "million"), Steps()
    digests = [i.to_bytes(16, "big") for i in range(n)]
    parts = [slice(i, min(i + BATCH, n)) for i in range(0, n, BATCH)]

    def fill() -> None:
        for part in parts:
            start = part.start % N
            store.put(RECIPE, digests[part], VALUES[start : start + part.stop - part.start])

    def read(order: Sequence[int], parts: list[slice]) -> None:
        for part in parts:
            found = opened.get(RECIPE, [digests[i] for i in order[part]])
            assert all(v[0] == VALUES[i % N, 0] for i, v in zip(order[part], found, strict=True))

    steps.run("fill", fill)
    opened = FeatureStore(store.location)
    assert steps.run("open", lambda: len(opened)) == n
    steps.run("read all", lambda: read(range(n), parts))
    order = np.random.default_rng(0).permutation(n)
    few = parts[: max(1, len(parts) // 100)]
    steps.run("read a hundredth, shuffled", lambda: read(order, few))
    store.clear()
    return steps.cases(f"a store of {n:,} samples", "what was put is found")


class Encoder(torch.nn.Module):
    """A layer from 8 to 16 numbers."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 16)

    def forward(self, x):
        return self.layer(x)


def measure_search(root: Path, n: int) -> list[Case]:
    steps = Steps()
    X = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
    y = (X[:, 0] > 0).astype(int)
    torch.manual_seed(0)
    features = PretrainedFeatureExtractor(load_backbone(Encoder()), memory=root / "search")
    steps.run("features of X, computed and stored", lambda: features.fit(X).transform(X))
    model = make_pipeline(features, SGDClassifier(random_state=0, max_iter=5, tol=None))
    search = GridSearchCV(model, {"sgdclassifier__alpha": [1e-4, 1e-3]}, cv=2, refit=False)
    with count_forward() as counted:
        steps.run("search of 4 fits", lambda: search.fit(X, y))
    assert counted[0] <= 8, counted  # checks of single samples
    assert search.best_score_ > 0.9
    note = f"score {search.best_score_:.3f}; no row passed through the network again"
    return steps.cases(f"a grid search over {n:,} rows", note)


def main() -> None:
    options = parser(__doc__, quick={"samples": 100_000})
    options.add_argument("--samples", type=int, default=1_000_000)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as root:
        cases = measure_search(Path(root), args.samples)
        cases += measure_store(Path(root), args.samples)
    record(__file__, args, cases)


if __name__ == "__main__":
    main()
