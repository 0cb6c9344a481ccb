"""Measure what it costs to compare stored features with those of today's code.

The time of GridSearchCV with 40 fits (eight candidates, five folds) of a pipeline with an extractor
on 244 photographs, given as paths: in a process with an empty store, and in another process with
the store that the first has filled. A store that is not compared is the baseline. Each search runs
in a process of its own; scores and the selected parameter are asserted to be equal first. Seconds
inside the store are those of its methods `get` and `put`, where the features are compared.

    python benchmarks/store_check.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from _common import Case, hymenoptera, parser, record

QUICK = {"rounds": 2}
CHILD = """
import json, sys, time
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sktransfer import FeatureStore, PretrainedFeatureExtractor
from sktransfer.features import generations

class Unchecked(FeatureStore):
    generations = None

inside = 0.0
def timed(method):
    def run(*args, **kwargs):
        global inside
        start = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            inside += time.perf_counter() - start
    return run
for name in ("get", "put"):
    method = getattr(generations.CheckedStore, name)
    setattr(generations.CheckedStore, name, timed(method))

paths, labels, kind, folder = json.load(sys.stdin)
memory = {"compared": FeatureStore, "not compared": Unchecked}[kind](folder)
model = make_pipeline(
    PretrainedFeatureExtractor(memory=memory), StandardScaler(), LogisticRegression(max_iter=1000)
)
grid = {"logisticregression__C": np.logspace(-5, 2, 8)}
start = time.perf_counter()
search = GridSearchCV(model, grid, cv=5, error_score="raise").fit(paths, labels)
seconds = time.perf_counter() - start
scores = search.cv_results_["mean_test_score"].tolist()
print(json.dumps([seconds, inside, scores, search.best_params_]))
"""


def search(paths: list[str], labels: list[str], kind: str, folder: Path) -> list:
    """Run one search in a new process; return its seconds, those in the store, and its results."""
    given = json.dumps([paths, labels, kind, str(folder)])
    child = subprocess.run(
        [sys.executable, "-c", CHILD], input=given, stdout=subprocess.PIPE, check=True, text=True
    )
    return json.loads(child.stdout)


def main() -> None:
    args = parser(__doc__, rounds=5, quick=QUICK).parse_args()
    paths, labels = hymenoptera(args.data, "train")
    kinds = ["not compared", "compared"]
    values: dict[str, dict[str, list[float]]] = {}
    expected = None
    for r in range(args.rounds):
        for kind in kinds[:: 1 if r % 2 else -1]:
            with tempfile.TemporaryDirectory() as folder:
                for run in ("empty store", "filled store"):
                    found = search(paths, labels.tolist(), kind, Path(folder))
                    seconds, inside, *results = found
                    expected = expected or results
                    assert results == expected, "the searches differ"
                    values.setdefault(run, {}).setdefault(kind, []).append(seconds)
                    name = f"{run}, inside the store"
                    values.setdefault(name, {}).setdefault(kind, []).append(inside)
                    print(f"  {run}, {kind}: {seconds:.2f} s, {inside:.3f} s inside", flush=True)
    for run in ("empty store", "filled store"):
        both = values[f"{run}, inside the store"]
        cost = median(both["compared"]) - median(both["not compared"])
        share = cost / median(values["empty store"]["not compared"])
        print(f"{run}: comparing takes {1e3 * cost:.0f} ms, {share:.2%} of the first search")
    cases = [
        Case(run, "s", each, baseline="not compared", note="scores equal")
        for run, each in values.items()
    ]
    record(__file__, args, cases)


if __name__ == "__main__":
    main()
