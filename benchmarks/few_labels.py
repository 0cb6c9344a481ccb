"""Measure what unlabelled samples and wrong labels change: test accuracies of TransferClassifier.

Tasks of _tasks.py with one to five labels for each class. All other samples of the training pool
are unlabelled; with --skewed, only a quarter of them in half of the classes, so that their shares
of classes are not those of the labels. With --flipped, a share of the labels of the whole training
pool is replaced by another class, and the blend is compared with a linear classifier on the
features of the penultimate layer. The numbers of SELF_TRAINING were chosen on the first half.

    python benchmarks/few_labels.py --half first --draws 3 --memory features
    python benchmarks/few_labels.py --half second --draws 2 --memory features
    python benchmarks/few_labels.py --flipped 0.1 0.2 --memory features
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from _common import parser, table
from _tasks import Task

from sktransfer import TransferClassifier

# source, samples of a class in the training pool
FIRST = [
    ("ants and bees", 100),
    ("animals", 12),
    ("turned", 40),
    ("digits", 20),
    ("letters", 20),
    ("surfaces", 20),
]
SECOND = [
    ("damaged", 15),
    ("mirrored colours", 20),
    ("odd digits", 40),
    ("faces", 40),
    ("dots", 15),
    ("shapes", 20),
]
FLIPPED = [("digits", 20), ("surfaces", 20)]


def labelled(y: np.ndarray, n: int, generator) -> np.ndarray:
    """Draw n samples of each class."""
    chosen = [generator.permutation(np.flatnonzero(y == k))[:n] for k in np.unique(y)]
    return np.sort(np.concatenate(chosen))


def skew(rows: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Keep a quarter of the samples of the second half of the classes."""
    classes = np.unique(y)
    few = np.isin(y[rows], classes[(len(classes) + 1) // 2 :])
    return rows[~few | (np.arange(len(rows)) % 4 == 0)]


def score(model, train: tuple, test: tuple, unlabelled: list | None = None) -> float:
    """Fit a model and return its test accuracy."""
    return model.fit(*train, X_unlabelled=unlabelled).score(*test)


def compare(task: Task, n: int, draw: int, args) -> list[float]:
    """Return the accuracies without unlabelled samples and with them."""
    (X, y), test = task.draw(args.data, draw)
    rows = labelled(y, n, np.random.default_rng([draw, n, 0]))
    others = np.setdiff1d(np.arange(len(y)), rows)
    others = skew(others, y) if args.skewed else others
    train = [X[i] for i in rows], y[rows]
    model = TransferClassifier(memory=args.memory, random_state=draw)
    return [score(model, train, test), score(model, train, test, [X[i] for i in others])]


def measure_unlabelled(args) -> list[list]:
    """Return a row for each task and number of labels."""
    rows = []
    for source, pool in FIRST if args.half == "first" else SECOND:
        for n in args.labels:
            found = [compare(Task(source, pool), n, d, args) for d in range(args.draws)]
            means, gains = np.mean(found, axis=0), np.diff(found, axis=1)
            rows.append([source, n, *(f"{mean:.3f}" for mean in means), f"{gains.min():+.3f}"])
            print(*rows[-1], flush=True)
    for n in args.labels:
        means = [[float(cell) for cell in row[2:]] for row in rows if row[1] == n]
        without, with_them, _ = np.mean(means, axis=0)
        rows.append(["mean", n, f"{without:.3f}", f"{with_them:.3f}", ""])
    return rows


def flip(y: np.ndarray, share: float, generator) -> np.ndarray:
    """Replace a share of the labels by another class."""
    classes, codes = np.unique(y, return_inverse=True)
    wrong = generator.permutation(len(y))[: round(share * len(y))]
    codes[wrong] += generator.integers(1, len(classes), size=len(wrong))
    return classes[codes % len(classes)]


def measure_flipped(args) -> list[list]:
    """Return a row for each task and share of wrong labels."""
    rows = []
    for source, pool in FLIPPED:
        for share in (0.0, *args.flipped):
            found = []
            for draw in range(args.draws):
                (X, y), test = Task(source, pool).draw(args.data, draw)
                train = X, flip(y, share, np.random.default_rng([draw, 1]))
                models = [
                    TransferClassifier(strategy=s, memory=args.memory, random_state=draw)
                    for s in ("auto", "features")
                ]
                found.append([score(model, train, test) for model in models])
            rows.append([source, f"{share:.0%}", *(f"{mean:.3f}" for mean in np.mean(found, 0))])
            print(*rows[-1], flush=True)
    return rows


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--half", choices=["first", "second"], default="first")
    arguments.add_argument("--draws", type=int, default=3)
    arguments.add_argument("--labels", type=int, nargs="+", default=[1, 2, 3, 5])
    arguments.add_argument("--skewed", action="store_true")
    arguments.add_argument("--flipped", type=float, nargs="+", help="shares of wrong labels")
    arguments.add_argument("--memory", type=Path, help="folder for features")
    args = arguments.parse_args()
    if args.flipped:
        table(["task", "wrong labels", "blend", "features"], measure_flipped(args))
    else:
        header = ["task", "labels a class", "without", "with unlabelled", "worst gain"]
        table(header, measure_unlabelled(args))


if __name__ == "__main__":
    main()
