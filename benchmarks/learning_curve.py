"""Measure what transfer is worth: test accuracy against the number of labels for each class.

Four data sets: photographs of ants and bees, handwritten digits of 8 x 8 pixels, drawn letters, and
sentences from film reviews. Models: TransferClassifier() ("blend"), a linear classifier on the
features of the penultimate layer ("features"), the whole network trained from the pretrained
weights ("all") and from random ones ("from scratch", images only), and without any network raw
pixels or TF-IDF with logistic regression. The test samples of a draw are the same for all models
and sizes. "all" and "from scratch" are fitted with 5 labels or more, with 128 pixels for
photographs and 96 for the others; on sentences "all" trains word vectors, not the text encoder of
"blend" and "features". "from scratch" has a learning rate of 1e-3, learns the statistics of its
batch normalization, and gets 480 steps, four times as many as "all".

Results are written to --out after each fit, and an interrupted run can be continued. Draws the
figure of docs/transfer.md.

    python benchmarks/learning_curve.py --draws 3 --memory features --picture docs/transfer.png
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import torch
from _common import parser, table
from _tasks import Task
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sktransfer import FineTunedClassifier, TransferClassifier, load_backbone

LITE, E5, WORDS = "efficientnet_lite0", "e5_small", "glove_6b_50d"
TESTED = 20  # the number of labels whose test samples are those of all numbers
# source: backbone, numbers of labels for each class, pixels of the network that is trained
SETS = {
    "ants and bees": (LITE, (1, 2, 5, 20, 100), 128),
    "digits": (LITE, (1, 2, 5, 20), 96),
    "letters": (LITE, (1, 2, 5, 20), 96),
    "reviews": (E5, (1, 2, 5, 20, 100, 500), None),
}
TRAINED = ("all", "from scratch")
LABELS = {("reviews", "all"): "all (word vectors)"}
FEW = 5  # labels for each class from which on the whole network is trained
STEPS, BATCH = 480, 16  # of training from random weights
TITLES = {
    "ants and bees": "ants and bees (photographs, 2 classes)",
    "digits": "digits (8 x 8 pixels, 10 classes)",
    "letters": "drawn letters (10 classes)",
    "reviews": "film reviews (sentences, 2 classes)",
}


def pixels(samples: list) -> np.ndarray:
    """Turn images into rows of 16 x 16 pixels in three channels."""
    rows = []
    for sample in samples:
        if isinstance(sample, str):
            image = Image.open(sample).convert("RGB")
        else:
            scaled = sample if sample.dtype == np.uint8 else (sample * 255).round().astype(np.uint8)
            image = Image.fromarray(scaled).convert("RGB")
        rows.append(np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)).ravel() / 255)
    return np.array(rows)


def make(name: str, source: str, n_labels: int, n_rows: int, seed: int, memory: Path | None):
    """Return a classifier that is not fitted; None for a model that the data set does not have."""
    backbone = SETS[source][0]
    on_texts = backbone == E5
    if name in TRAINED:
        return make_trained(name, source, n_labels, n_rows, seed)
    if name in ("blend", "features"):
        strategy = "auto" if name == "blend" else "features"
        loaded = load_backbone(backbone)
        return TransferClassifier(loaded, strategy=strategy, memory=memory, random_state=seed)
    if name != ("TF-IDF" if on_texts else "raw pixels"):
        return None
    folds = min(5, n_labels) if n_labels > 1 else None
    first = TfidfVectorizer() if on_texts else FunctionTransformer(pixels)
    return make_pipeline(first, _logistic(folds))


def make_trained(name: str, source: str, n_labels: int, n_rows: int, seed: int):
    """Return a network that is trained whole; None for texts from random weights, or few labels."""
    backbone, _, image_size = SETS[source]
    on_texts = backbone == E5
    if n_labels < FEW or (on_texts and name == "from scratch"):
        return None
    random = {} if name == "all" else from_scratch(n_rows)
    settings = {"trainable": "all", "image_size": image_size, "random_state": seed}
    return FineTunedClassifier(WORDS if on_texts else backbone, **settings, **random)


def from_scratch(n_rows: int) -> dict:
    """Return the parameters of a network that begins with random weights."""
    epochs = math.ceil(STEPS / math.ceil(n_rows / BATCH))
    settings = {"weights": None, "head_init": "random", "train_batch_norm": True}
    return settings | {"lr": 1e-3, "max_epochs": epochs, "batch_size": BATCH}


def _logistic(folds: int | None):
    if folds is None:
        return LogisticRegression(max_iter=2000)
    return LogisticRegressionCV(
        Cs=(0.1, 1.0, 10.0, 100.0),
        cv=folds,
        max_iter=2000,
        scoring="accuracy",
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
    )


MODELS = ("blend", "features", "all", "from scratch", "raw pixels", "TF-IDF")


def measure(args) -> dict[tuple, float]:
    """Fit what is not in --out yet; return accuracies by data set, model, labels and draw."""
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    found = {tuple(row[:4]): row[4] for row in map(json.loads, lines)}
    for seed in range(args.draws):
        for source in args.sources:
            sizes = SETS[source][1]
            X_test, y_test = Task(source, TESTED).draw(args.data, seed)[1]
            for n_labels in sizes:
                X, y = Task(source, n_labels).draw(args.data, seed)[0]
                for name in args.models:
                    key = (source, name, n_labels, seed)
                    model = make(name, source, n_labels, len(X), seed, args.memory)
                    if key in found or model is None:
                        continue
                    found[key] = float(model.fit(X, y).score(X_test, y_test))
                    print(*key, f"{found[key]:.3f}", flush=True)
                    with args.out.open("a") as file:
                        print(json.dumps([*key, found[key]]), file=file)
    return found


def curves(found: dict[tuple, float], source: str) -> dict[str, dict[int, list[float]]]:
    """Return the accuracies of each model by the number of labels."""
    by_model: dict[str, dict[int, list[float]]] = {}
    for name in MODELS:
        sizes = sorted({n for s, m, n, _ in found if (s, m) == (source, name)})
        if sizes:
            by_model[name] = {
                n: [v for (s, m, k, _), v in found.items() if (s, m, k) == (source, name, n)]
                for n in sizes
            }
    return by_model


def cell(values: list[float]) -> str:
    """Return mean and standard deviation as text, of one draw only the value."""
    spread = f" ± {np.std(values):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}" if values else "-"


def draw(found: dict[tuple, float], picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(2, 2, figsize=(9.6, 7), layout="constrained")
    colours = dict(zip(MODELS, ("C3", "C0", "C2", "C7", "C1", "C1"), strict=True))
    for source, axes in zip(SETS, grid.flat, strict=True):
        for name, by_size in curves(found, source).items():
            sizes, colour = list(by_size), colours[name]
            mean, spread = (
                np.array([function(by_size[n]) for n in sizes]) for function in (np.mean, np.std)
            )
            style = "o--" if name in TRAINED else "o-"
            label = LABELS.get((source, name), name)
            axes.plot(sizes, mean, style, label=label, color=colour, markersize=4)
            axes.fill_between(sizes, mean - spread, mean + spread, alpha=0.15, color=colour)
        axes.set(xscale="log", title=TITLES[source], ylim=(None, 1.01))
        axes.set_xticks(SETS[source][1], SETS[source][1])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="best")
    figure.supxlabel("training labels for each class")
    figure.supylabel("test accuracy")
    figure.savefig(picture, dpi=100)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--out", type=Path, default=Path("learning_curve.jsonl"))
    options.add_argument("--draws", type=int, default=3)
    options.add_argument("--models", nargs="*", default=list(MODELS))
    options.add_argument("--sources", nargs="*", default=list(SETS))
    options.add_argument("--memory", type=Path, help="a folder that keeps features")
    options.add_argument("--picture", type=Path)
    args = options.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    found = measure(args)
    for source in SETS:
        by_model, sizes = curves(found, source), SETS[source][1]
        rows = [[m, *(cell(v.get(n, [])) for n in sizes)] for m, v in by_model.items()]
        table([source, *sizes], rows)
    if args.picture:
        draw(found, args.picture)


if __name__ == "__main__":
    main()
