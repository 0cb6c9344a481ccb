"""Measure the accuracy on old classes after new ones were added: digits 0 to 6, then 7 to 9.

40 training images a class, the others of 1,200 for testing, three seeds. The second call of
`partial_fit` receives 7 to 9 only. The accuracy on the old classes is measured before it, after
it with rehearsal (10 activations a class) and without, and the accuracy on the new classes after
it.

    python benchmarks/growing.py
"""

from __future__ import annotations

import tempfile

import numpy as np
from _common import table
from sklearn.datasets import load_digits

from sktransfer import FineTunedClassifier


def grow(X, y, old, learn, rehearsal: int, seed: int, memory: str) -> list[float]:
    """Fit the old classes, then the new ones; return test accuracies."""
    model = FineTunedClassifier(
        trainable="head", image_size=128, rehearsal=rehearsal, memory=memory, random_state=seed
    )
    first, second = learn & old, learn & ~old
    model.fit(take(X, first), y[first])
    judge_old, judge_new = ~learn & old, ~learn & ~old
    before = model.score(take(X, judge_old), y[judge_old])
    model.partial_fit(take(X, second), y[second])
    after = model.score(take(X, judge_old), y[judge_old])
    return [before, after, model.score(take(X, judge_new), y[judge_new])]


def take(X: list, chosen: np.ndarray) -> list:
    return [X[i] for i in np.flatnonzero(chosen)]


def main() -> None:
    digits = load_digits()
    rows = []
    with tempfile.TemporaryDirectory() as memory:
        for rehearsal in (0, 10):
            found = []
            for seed in range(3):
                drawn = np.random.default_rng(seed).permutation(len(digits.target))[:1200]
                X, y = list(digits.images[drawn] / 16), digits.target[drawn]
                learn = np.zeros(len(y), bool)
                for k in range(10):
                    learn[np.flatnonzero(y == k)[:40]] = True
                found.append(grow(X, y, y < 7, learn, rehearsal, seed, memory))
                print(rehearsal, seed, found[-1], flush=True)
            columns = np.array(found).T
            cells = [f"{c.mean():.3f} ({c.min():.3f} to {c.max():.3f})" for c in columns]
            rows.append([f"rehearsal={rehearsal}", *cells])
    table(["", "old classes before", "old classes after", "new classes after"], rows)


if __name__ == "__main__":
    main()
