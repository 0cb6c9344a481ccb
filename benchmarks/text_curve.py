"""Measure the test accuracy on SST-2 against the number of training sentences.

Five random draws of 50, 200 and 1,000 sentences (and all 6,920 once), the same for every model;
mean and standard deviation over the draws. Draws the figure of docs/guide/text.md.

With --memory, the features of all sentences are kept in a folder, which sst2.py can share. The
blend is `TransferClassifier`, which the figure leaves out.

    python benchmarks/text_curve.py --picture docs/guide/text_curve.png
    python benchmarks/text_curve.py --models "e5, blend"
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from _common import parser, sst2, table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor, TransferClassifier

SIZES, DRAWS = (50, 200, 1000, 6920), 5
NAMES, BLEND = ("e5", "MiniLM", "GloVe", "TF-IDF"), "e5, blend"


def models(memory: str) -> dict:
    def on_features(step):
        return make_pipeline(step, LogisticRegression(max_iter=5000))

    extractor = PretrainedFeatureExtractor
    return {
        "e5": on_features(extractor("e5_small", memory=memory)),
        "MiniLM": on_features(extractor("minilm_l6_v2", memory=memory)),
        "GloVe": on_features(extractor("glove_6b_50d")),
        "TF-IDF": on_features(TfidfVectorizer()),
        BLEND: TransferClassifier("e5_small", memory=memory, random_state=0),
    }


def accuracies(model, train, judge, size: int) -> list[float]:
    """Fit on draws of one size and return the accuracy of each."""
    found = []
    for seed in range(DRAWS if size < len(train[0]) else 1):
        drawn = np.random.default_rng(seed).permutation(len(train[0]))[:size]
        model.fit([train[0][i] for i in drawn], train[1][drawn])
        found.append(model.score(*judge))
    return found


def draw(results: dict[str, list[list[float]]], picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, scores in results.items():
        mean = np.array([np.mean(s) for s in scores])
        spread = np.array([np.std(s) for s in scores])
        (line,) = axes.plot(SIZES, mean, marker="o", label=f"{name} + logistic regression")
        axes.fill_between(SIZES, mean - spread, mean + spread, alpha=0.2, color=line.get_color())
    axes.set(xscale="log", xlabel="training sentences", ylabel="test accuracy")
    axes.set_xticks(SIZES, [f"{size:,}" for size in SIZES])
    axes.minorticks_off()
    axes.set_title("SST-2: is a sentence of a film review positive?")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--picture", type=Path)
    options.add_argument("--memory", help="a folder that keeps features")
    options.add_argument("--models", nargs="+", default=NAMES, choices=[*NAMES, BLEND])
    args = options.parse_args()
    train, judge = sst2(args.data, "train"), sst2(args.data, "test")
    results, rows = {}, []
    with tempfile.TemporaryDirectory() as scratch:
        known = models(args.memory or scratch)
        for name, model in ((name, known[name]) for name in args.models):
            results[name] = [accuracies(model, train, judge, size) for size in SIZES]
            cells = [f"{np.mean(s):.3f} ± {np.std(s):.3f}" for s in results[name]]
            rows.append([name, *cells])
            print(*rows[-1], flush=True)
    table(["", *map(str, SIZES)], rows)
    if args.picture:
        draw({name: scores for name, scores in results.items() if name != BLEND}, args.picture)


if __name__ == "__main__":
    main()
