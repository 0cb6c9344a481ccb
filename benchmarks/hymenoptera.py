"""Ants or bees, 244 images to learn from and 153 to be judged by, no network trained.

Shows: the accuracy on val of features of the default backbone and a logistic regression, C
chosen by a 5-fold grid search on train; of the backbone's own classes mapped onto the labels by
hand; and mapped by what train tells, smoothing chosen the same way. And that a grid search
with `memory=` runs each image through the network once (asserted; all rows share one folder).

Val is only ever scored. Each row that chooses does so five times, on the folds
StratifiedKFold(5, shuffle=True, random_state=seed), seeds 0 to 4: the choices, and the accuracy
of each, show what the split alone moves. One image is 0.0065; 147 right are 0.961, and one
standard error there is 0.016. Train holds a 245th file, a picture of the words "this image
could not be found" among the ants: it opens like any other, and has a row of its own.

    python benchmarks/hymenoptera.py
"""

from __future__ import annotations

import tempfile

import numpy as np
from _common import count_forward, hymenoptera, parser, table
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedClassifier, PretrainedFeatureExtractor

GRID = {"classify__C": np.logspace(-5, 2, 8).tolist()}
SMOOTHING = {"smoothing": [0.0, 0.01, 0.1, 1.0, 10.0]}
BY_HAND = {"ants": ["ant"], "bees": ["bee"]}
SEEDS = range(5)


def pipeline(memory: str, scaler=None, C: float = 1.0) -> Pipeline:
    features = PretrainedFeatureExtractor(memory=memory)
    classify = LogisticRegression(C=C, max_iter=2000)
    return Pipeline([("features", features), ("scale", scaler), ("classify", classify)])


def search(estimator, grid: dict, train, val, seed: int) -> tuple[str, float, float]:
    """Choose on train; return what was chosen, its score there, and its accuracy on val."""
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    found = GridSearchCV(estimator, grid, cv=folds, error_score="raise").fit(*train)
    (chosen,) = found.best_params_.values()
    chosen = f"{chosen:g}" if isinstance(chosen, float) else "-"
    return chosen, found.best_score_, found.score(*val)


def row(name: str, estimator, grid: dict, train, val, seeds=SEEDS) -> list[str]:
    with count_forward() as forwarded:
        outcomes = [search(estimator, grid, train, val, seed) for seed in seeds]
    chosen, on_train, on_val = zip(*outcomes, strict=True)
    for (C, cv, accuracy), seed in zip(outcomes, seeds, strict=True):
        print(f"  {name}, seed {seed}: {C}; {cv:.3f} on train, {accuracy:.3f} on val", flush=True)
    accuracies = f"{np.median(on_val):.3f}: " + ", ".join(f"{a:.3f}" for a in on_val)
    return [name, ", ".join(chosen), f"{np.mean(on_train):.3f}", accuracies, str(forwarded[0])]


def count_in_grid_search(memory: str, train) -> str:
    """Run the first search alone: each image of train must meet the network once."""
    with count_forward() as forwarded:
        GridSearchCV(pipeline(memory, StandardScaler()), GRID, cv=5).fit(*train)
    assert forwarded[0] == len(set(train[0])), forwarded
    n_fits = 5 * len(GRID["classify__C"])
    return f"{n_fits} fits and scores of {len(train[0])} images: {forwarded[0]} forward passes"


def main() -> None:
    args = parser(__doc__).parse_args()
    train, val = hymenoptera(args.data, "train"), hymenoptera(args.data, "val")
    with_gif = hymenoptera(args.data, "train", placeholder=True)
    with tempfile.TemporaryDirectory() as memory:
        counted = count_in_grid_search(memory, train)
        scaled, learned = pipeline(memory, StandardScaler()), PretrainedClassifier(memory=memory)
        learned.set_params(class_map="learn")
        by_hand = PretrainedClassifier(class_map=BY_HAND, memory=memory)
        fixed = {"classify__C": [1e-3]}
        # Nothing is chosen in the rows with one seed: the search has one candidate.
        rows = [
            row("StandardScaler, LogisticRegression", scaled, GRID, train, val),
            row("the same, and the placeholder", scaled, GRID, with_gif, val),
            row("LogisticRegression", pipeline(memory), GRID, train, val),
            row("LogisticRegression(C=0.001)", pipeline(memory), fixed, train, val, [0]),
            row("class_map by hand", by_hand, {"class_map": [BY_HAND]}, train, val, [0]),
            row('class_map="learn"', learned, SMOOTHING, train, val),
        ]
    print(f"\n{counted}; the rows below found those features in memory")
    header = ["what", "C or smoothing", "5-fold, train", "val: median, each", "forward passes"]
    table(header, rows)


if __name__ == "__main__":
    main()
