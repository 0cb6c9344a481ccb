"""Measure a grid search over a pipeline with a network: five folds, eight candidates.

GridSearchCV over (extractor with `memory=`, StandardScaler, LogisticRegression) on 400 images,
compared with extracting the features once and searching on them: with an empty store (first
run) and a filled one (second run). Scores are equal, and 400 and 0 samples pass through the
network; without `memory=`, 16,400 would.

How long the search alone takes decides the ratios. On machine 1, OpenBLAS takes four to seven times
as long with two threads as with one: 0.1 to 0.2 s for a fit of LogisticRegression to 400 rows of
1280 features, in place of 0.03 s, with no other program and without torch. In a second run from
paths, each file is read and digested 40 times.

    python benchmarks/grid_search.py
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _common import Case, as_arrays, count_forward, parser, photographs, record
from _processes import race
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor

GRID = {"classify__C": np.logspace(-5, 2, 8)}
AFTER = [("scale", StandardScaler()), ("classify", LogisticRegression(max_iter=1000))]
QUICK = {"rounds": 2, "forms": ["list of arrays", "paths"]}


def search(steps, X, y) -> np.ndarray:
    """Return the scores of each candidate in each fold."""
    found = GridSearchCV(Pipeline(steps), GRID, cv=5, error_score="raise").fit(X, y)
    return np.stack([found.cv_results_[f"split{k}_test_score"] for k in range(5)])


def samples(form: str, paths: list[str]) -> Any:
    """Return the photographs in one of the three forms."""
    if form == "paths":
        return paths
    return as_arrays(paths) if form == "one array" else list(as_arrays(paths))


# -- contestants: each is made in a process of its own -----------------------------------------


def features_once(form: str, paths: list[str], y: list[str]) -> Callable:
    X = samples(form, paths)
    return lambda: search(AFTER, PretrainedFeatureExtractor().fit_transform(X), y)


def search_alone(form: str, paths: list[str], y: list[str]) -> Callable:
    vectors = PretrainedFeatureExtractor().fit_transform(samples(form, paths))
    return lambda: search(AFTER, vectors, y)


def through_store(form: str, paths: list[str], y: list[str], is_filled: bool) -> Callable:
    """With a store that is empty in each run, or that a first run has filled."""
    X, folder = samples(form, paths), tempfile.TemporaryDirectory()
    numbers = itertools.count()

    def run(folder=folder) -> np.ndarray:
        memory = f"{folder.name}/{0 if is_filled else next(numbers)}"
        extractor = PretrainedFeatureExtractor(memory=memory)
        return search([("extract", extractor), *AFTER], X, y)

    for expected in [len(y), 0] if is_filled else [len(y)]:
        with count_forward() as counted:
            run()
        assert counted[0] == expected, counted
    return run


# -- races ---------------------------------------------------------------------------------------


def assert_equal(scores: dict[str, np.ndarray]) -> str:
    wanted, *others = scores.values()
    for found in others:
        np.testing.assert_array_equal(found, wanted)
    return "equal scores"


def measure(form: str, paths: list[str], y: list[str], args) -> Case:
    print(form, flush=True)
    given = {"form": form, "paths": paths, "y": y}
    variants = {
        "features once, then the search": (features_once, given),
        "the search alone": (search_alone, given),
        "first run": (through_store, given | {"is_filled": False}),
        "second run": (through_store, given | {"is_filled": True}),
    }
    times, note = race(variants, args.rounds, args.clock, assert_equal)
    note += f"; {len(y)} and 0 images passed through the network; each in a fresh process"
    aims = {"first run": 1.15, "second run": 0.25}
    about = f"{len(y)} images, {torch.get_num_threads()} threads"
    return Case(f"{form}, {about}", "s", times, next(iter(times)), aims, note)


def main() -> None:
    options = parser(__doc__, rounds=5, quick=QUICK)
    options.add_argument("--samples", type=int, default=400)
    forms = ["list of arrays", "one array", "paths"]
    options.add_argument("--forms", nargs="+", default=forms, choices=forms)
    args = options.parse_args()
    paths, y = photographs(args.data, args.samples)
    cases = [measure(form, paths, y.tolist(), args) for form in args.forms]
    record(__file__, args, cases)


if __name__ == "__main__":
    main()
