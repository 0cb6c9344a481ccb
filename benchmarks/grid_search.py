"""Measure a grid search over a pipeline with a network: five folds, eight candidates.

The time of GridSearchCV over (extractor with `memory=`, StandardScaler, LogisticRegression) on
400 images, as a multiple of extracting the features once and searching on them: with an empty
store (first run, target 1.15) and with a filled one (second run, target 0.25). Scores and the
selected parameter are asserted to be equal first, and the samples passed through the network to
be 400 and 0.

The photographs are given in three forms: a list of arrays 224 x 224 x 3, one array of them (each
fold then copies its images), and paths (each file is read for its digest at every look-up).

    python benchmarks/grid_search.py
"""

from __future__ import annotations

import itertools
import tempfile

import numpy as np
from _common import as_arrays, count_forward, interleave, parser, photographs, ratio, table
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor

GRID = {"classify__C": np.logspace(-5, 2, 8)}
AFTER = [("scale", StandardScaler()), ("classify", LogisticRegression(max_iter=1000))]


def search(steps, X, y) -> GridSearchCV:
    return GridSearchCV(Pipeline(steps), GRID, cv=5, error_score="raise").fit(X, y)


def ideal(X, y) -> GridSearchCV:
    """Extract the features once and search on them."""
    return search(AFTER, PretrainedFeatureExtractor().fit_transform(X), y)


def through_store(X, y, memory) -> GridSearchCV:
    return search([("extract", PretrainedFeatureExtractor(memory=memory)), *AFTER], X, y)


def assert_equal(a: GridSearchCV, b: GridSearchCV) -> None:
    for key in a.cv_results_:
        if key.startswith("split") or key in ("mean_test_score", "rank_test_score"):
            np.testing.assert_array_equal(a.cv_results_[key], b.cv_results_[key], err_msg=key)
    assert a.best_params_ == b.best_params_


def measure(name: str, X, y, rounds: int, folder: str) -> list:
    print(name, flush=True)
    folders = (f"{folder}/{name}{i}" for i in itertools.count())
    ready = next(folders)
    with count_forward() as cold:
        first = through_store(X, y, ready)
    with count_forward() as warm:
        second = through_store(X, y, ready)
    wanted = ideal(X, y)
    assert_equal(first, wanted)
    assert_equal(second, wanted)
    assert (cold[0], warm[0]) == (len(y), 0), (cold, warm)
    vectors = PretrainedFeatureExtractor(memory=ready).fit_transform(X)
    variants = {
        "search alone": lambda: search(AFTER, vectors, y),
        "ideal": lambda: ideal(X, y),
        "cold": lambda: through_store(X, y, next(folders)),
        "warm": lambda: through_store(X, y, ready),
    }
    times = interleave(variants, rounds)
    medians = [f"{np.median(t):.2f}" for t in times.values()]
    ratios = [ratio(times[which], times["ideal"]) for which in ("cold", "warm")]
    return [name, *medians, *ratios, f"{cold[0]} / {warm[0]}"]


def main() -> None:
    options = parser(__doc__, rounds=5)
    options.add_argument("--samples", type=int, default=400)
    args = options.parse_args()
    paths, y = photographs(args.data, args.samples)
    stacked = as_arrays(paths)
    forms = {"list of arrays": list(stacked), "one array": stacked, "paths": paths}
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(name, X, y, args.rounds, folder) for name, X in forms.items()]
    print(f"\n{len(y)} images, 5 folds x {len(GRID['classify__C'])} candidates; median seconds")
    header = [
        "X",
        "search alone",
        "ideal",
        "cold",
        "warm",
        "cold / ideal",
        "warm / ideal",
        "forward passes",
    ]
    table(header, rows)


if __name__ == "__main__":
    main()
