"""Draw docs/digits.png: accuracy on digits against the number of labels.

    python docs/plot_digits.py

Handwritten digits of 8 x 8 pixels, which ship with scikit-learn, are classified from raw pixels and
from features of the default backbone at two layers. Each point is the mean of ten random draws of
training samples, evaluated on 500 other digits; bands are one standard deviation. The classifier
(logistic regression or a support vector machine), its C and the scaling are chosen by
cross-validation on the training samples. Takes a few minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from sktransfer import PretrainedFeatureExtractor

LABELS = (2, 5, 10, 20, 50)  # for each class
N_DRAWS, N_TEST = 10, 500
EARLIER = "blocks.9"


def tables() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the three representations of all digits, by name, and the labels."""
    pixels, y = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 8, 8) / 16
    earlier, penultimate = (
        PretrainedFeatureExtractor(layer=layer, pooling="flatten", image_size=64)
        for layer in (EARLIER, None)
    )
    return {
        f"features of an earlier layer ({EARLIER})": earlier.fit_transform(images),
        "raw pixels": pixels,
        "features of the penultimate layer": penultimate.fit_transform(images),
    }, y


def search(n_folds: int) -> GridSearchCV:
    grid = {
        "scale": [StandardScaler(), "passthrough"],
        "model": [LogisticRegression(max_iter=5000), SVC()],
        "model__C": [0.01, 0.1, 1, 10],
    }
    steps = [("scale", StandardScaler()), ("model", SVC())]
    return GridSearchCV(Pipeline(steps), grid, cv=n_folds)


def accuracies(X: np.ndarray, y: np.ndarray, n_labels: int) -> list[float]:
    """Return the accuracy of each draw; the draws are the same for every representation."""
    splitter = StratifiedShuffleSplit(
        N_DRAWS, train_size=n_labels * 10, test_size=N_TEST, random_state=0
    )
    model = search(n_folds=min(3, n_labels))
    return [model.fit(X[a], y[a]).score(X[b], y[b]) for a, b in splitter.split(X, y)]


def draw(curves: dict[str, np.ndarray], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.6, 4.2), layout="constrained")
    for name, values in curves.items():
        mean, deviation = values.mean(axis=1), values.std(axis=1)
        axes.plot(LABELS, mean, "o-", label=name)
        axes.fill_between(LABELS, mean - deviation, mean + deviation, alpha=0.2)
    axes.set(
        xscale="log",
        xlabel="training labels for each class",
        ylabel=f"accuracy on {N_TEST} test digits",
        title="Handwritten digits, EfficientNet-Lite0 trained on ImageNet",
    )
    axes.set_xticks(LABELS, LABELS)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("digits.png"))
    representations, y = tables()
    curves = {}
    for name, X in representations.items():
        curves[name] = np.array([accuracies(X, y, n) for n in LABELS])
        row = "  ".join(f"{v.mean():.3f} ± {v.std():.3f}" for v in curves[name])
        print(f"{name:45} {row}", flush=True)
    draw(curves, parser.parse_args().output)


if __name__ == "__main__":
    matplotlib.use("agg")
    main()
