"""Measure a grid search over a pipeline with a network: five folds, eight candidates.

The time of GridSearchCV over (extractor with `memory=`, StandardScaler, LogisticRegression) on 400
images, as a multiple of extracting the features once and searching on them: with an empty store
(first run) and with a filled one (second run). Scores and the selected parameter are asserted to be
equal first, and the samples passed through the network to be 400 and 0. Without `memory=`, every
fit and every prediction passes its images: 16,400 in all.

The photographs are given in three forms: a list of arrays 224 x 224 x 3, one array of them (each
fold then copies its images), and paths (each file is read for its digest at every look-up).

    python benchmarks/grid_search.py
"""

from __future__ import annotations

import itertools
import tempfile

import numpy as np
from _common import Case, as_arrays, count_forward, interleave, parser, photographs, record
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor

GRID = {"classify__C": np.logspace(-5, 2, 8)}
AFTER = [("scale", StandardScaler()), ("classify", LogisticRegression(max_iter=1000))]


QUICK = {"rounds": 2, "forms": ["list of arrays", "paths"]}


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


def measure(name: str, X, y, args, folder: str) -> Case:
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
        "features once, then the search": lambda: ideal(X, y),
        "the search alone": lambda: search(AFTER, vectors, y),
        "first run": lambda: through_store(X, y, next(folders)),
        "second run": lambda: through_store(X, y, ready),
    }
    times = interleave(variants, args.rounds, args.clock)
    note = f"equal scores; {cold[0]} and {warm[0]} images passed through the network"
    aims = {"first run": 1.15, "second run": 0.25}
    return Case(f"{name}, {len(y)} images", "s", times, next(iter(times)), aims, note)


def main() -> None:
    options = parser(__doc__, rounds=5, quick=QUICK)
    options.add_argument("--samples", type=int, default=400)
    forms = ["list of arrays", "one array", "paths"]
    options.add_argument("--forms", nargs="+", default=forms, choices=forms)
    args = options.parse_args()
    paths, y = photographs(args.data, args.samples)
    stacked = as_arrays(paths)
    given = {"list of arrays": list(stacked), "one array": stacked, "paths": paths}
    with tempfile.TemporaryDirectory() as folder:
        cases = [measure(name, given[name], y, args, folder) for name in args.forms]
    record(__file__, args, cases)


if __name__ == "__main__":
    main()
