"""Measure a grid search over depths and learning rates, with and without the store.

GridSearchCV over trainable = head, 1, 2, all and two learning rates, three folds, two epochs, 96
photographs of ants and bees. The scores are asserted to be equal. The candidates with
trainable="all" have no frozen stage and take most of the time.

    python benchmarks/finetune_search.py
"""

from __future__ import annotations

import tempfile
import time

import numpy as np
from _common import hymenoptera, parser, table
from sklearn.model_selection import GridSearchCV

from sktransfer import FineTunedClassifier


def search(X, y, depths: list, memory: str | None) -> tuple[np.ndarray, float]:
    model = FineTunedClassifier(max_epochs=2, random_state=0, memory=memory)
    begin = time.perf_counter()
    grid = {"trainable": depths, "lr": [1e-4, 1e-3]}
    found = GridSearchCV(model, grid, cv=3, refit=False).fit(X, y)
    return found.cv_results_["mean_test_score"], time.perf_counter() - begin


def main() -> None:
    args = parser(__doc__).parse_args()
    X, y = hymenoptera(args.data, "train")
    chosen = np.random.default_rng(0).permutation(len(X))[:96]
    X, y = [X[i] for i in chosen], y[chosen]
    rows = []
    for depths in (["head", 1, 2, "all"], ["head", 1, 2]):
        with tempfile.TemporaryDirectory() as memory:
            cold, with_store = search(X, y, depths, memory)
            warm, again = search(X, y, depths, memory)
        plain, without = search(X, y, depths, None)
        assert np.allclose(plain, cold, atol=0.02), (plain, cold)
        assert np.allclose(warm, cold, atol=0.02)
        seconds = [f"{s:.1f}" for s in (without, with_store, again)]
        rows.append([depths, *seconds, f"{without / with_store:.2f}", f"{without / again:.2f}"])
        print(rows[-1], flush=True)
    table(["depths", "without, s", "cold, s", "warm, s", "times, cold", "times, warm"], rows)


if __name__ == "__main__":
    main()
