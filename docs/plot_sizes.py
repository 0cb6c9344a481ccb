"""Draw docs/sizes.png: accuracy against the size of the input, for each data set.

    python docs/plot_sizes.py

EfficientNet-Lite0, whose weights were trained with 224 pixels. On the left it is used directly: the
1,000 classes of 50 ImageNet photographs, and ants and bees (153 validation photographs) by a
`class_map`. On the right a linear probe is fitted to features of the penultimate layer: ants and
bees (244 training, 153 validation photographs), and digits, letters and surfaces of
`benchmarks/_tasks.py` with 20 labels a class and 200 test samples, drawn at random several times.
Several sizes side by side are printed as well.
Each image passes the network at ten sizes, 12 times the work of one pass at 224 pixels: about half
an hour on one core. With --memory, a second run needs a minute.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt

from sktransfer import PretrainedClassifier, PretrainedFeatureExtractor
from sktransfer.transferability import LinearProbe

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
from _common import DATA, folder, hymenoptera  # noqa: E402
from _tasks import Task  # noqa: E402

SIZES = [64, 96, 128, 160, 192, 224, 256, 288, 320, 384]
NATIVE, N_TEST = 224, 200
TOGETHER = ([128, 224], [224, 288], [128, 224, 320])
ANTS_AND_BEES = {"ants": ["ant"], "bees": ["bee"]}
DRAWN = {
    "digits": "digits (8 x 8 pixels)",
    "letters": "letters (96 x 96)",
    "surfaces": "surfaces (48 x 48)",
}


class Measure:
    """Accuracies by size on one machine, features kept in ``memory``."""

    def __init__(self, data: Path, memory: str | None):
        self.data, self.memory = data, memory

    def direct(self, X: list, truth: np.ndarray, class_map: dict | None) -> list[float]:
        """Return the accuracy of direct use at each size."""
        found = []
        for size in SIZES:
            model = PretrainedClassifier(class_map=class_map, image_size=size, memory=self.memory)
            found.append(float(np.mean(_names(model.fit(X), X) == truth)))
        return found

    def probes(self, train: tuple, test: tuple) -> dict[str, float]:
        """Return the accuracy of a linear probe at each size and at several together."""
        samples = [*train[0], *test[0]]
        extractor = PretrainedFeatureExtractor(image_size=SIZES, memory=self.memory)
        tables = np.split(extractor.fit_transform(samples), len(SIZES), axis=1)
        by_size, n = dict(zip(SIZES, tables, strict=True)), len(train[0])
        found = {}
        for sizes in (*([size] for size in SIZES), *TOGETHER):
            Z = np.hstack([by_size[size] for size in sizes])
            probe = LinearProbe(random_state=0).fit(Z[:n], train[1])
            found["+".join(map(str, sizes))] = probe.score(Z[n:], test[1])
        return found

    def drawn(self, source: str, n_draws: int) -> list[dict[str, float]]:
        found = []
        for seed in range(n_draws):
            train, (X, y) = Task(source, 20).draw(self.data, seed)
            found.append(self.probes(train, (X[:N_TEST], y[:N_TEST])))
        return found


def _names(model: PretrainedClassifier, X: list) -> np.ndarray:
    """Return the predicted labels; for the network's own classes their WordNet ids."""
    if model.class_map is not None:
        return model.predict(X)
    return np.array(model.backbone_.class_ids)[model.predict_proba(X).argmax(axis=1)]


def curves(measure: Measure, n_draws: int) -> tuple[dict, dict]:
    """Return accuracies of direct use, and those of each draw of features, by data set."""
    photographs = sorted(folder(measure.data, "imagenet50").iterdir())
    ids = np.array([path.name[:9] for path in photographs])
    train, val = (hymenoptera(measure.data, part) for part in ("train", "val"))
    direct = {
        "ImageNet photographs (50), 1,000 classes": measure.direct(photographs, ids, None),
        "ants and bees (153), class_map": measure.direct(*val, ANTS_AND_BEES),
    }
    features = {"ants and bees (photographs)": [measure.probes(train, val)]}
    features |= {label: measure.drawn(source, n_draws) for source, label in DRAWN.items()}
    return direct, features


def report(direct: dict, features: dict) -> None:
    print(f"{'':42}" + "".join(f"{size:>7}" for size in SIZES))
    for name, values in direct.items():
        print(f"{name:42}" + "".join(f"{value:7.3f}" for value in values))
    for name, draws in features.items():
        mean = {key: np.mean([draw[key] for draw in draws]) for key in draws[0]}
        print(f"{name:42}" + "".join(f"{mean[str(size)]:7.3f}" for size in SIZES))
        together = {key: value for key, value in mean.items() if "+" in key}
        print(f"{'':42}" + "  ".join(f"{key} {value:.3f}" for key, value in together.items()))


def draw(direct: dict, features: dict, path: Path) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4.4), layout="constrained")
    for name, values in direct.items():
        panels[0].plot(SIZES, values, "o-", label=name)
    for name, draws in features.items():
        values = np.array([[one[str(size)] for size in SIZES] for one in draws])
        panels[1].plot(SIZES, values.mean(axis=0), "o-", label=name)
    for axes, title in zip(panels, ("direct use", "linear probe on features"), strict=True):
        axes.axvline(NATIVE, color="grey", linestyle=":")
        axes.set(title=title, xlabel="side of the input in pixels (224: training of the weights)")
        axes.set_xticks([64, 128, 192, 224, 256, 320, 384])
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize="small")
    panels[0].set_ylabel("accuracy")
    panels[1].set_ylim(0.72, 1.0)  # with room for the legend
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("sizes.png"))
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--memory", help="folder for the features")
    parser.add_argument("--draws", type=int, default=3)
    asked = parser.parse_args()
    found = curves(Measure(asked.data, asked.memory), asked.draws)
    report(*found)
    draw(*found, asked.output)


if __name__ == "__main__":
    matplotlib.use("agg")
    main()
