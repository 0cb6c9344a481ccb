"""Measure the test accuracy of word vectors and of sentence encoders on SST-2.

6,920 training and 1,821 test sentences (the standard error is 0.010). Logistic regression has the
defaults of scikit-learn except max_iter. Random models have three seeds. Nothing is selected on
the test sentences; learning rates were selected on the development sentences (--split dev).
With --memory, features and activations are kept in a folder, which text_curve.py can share. With
--budget, a blend has that many seconds to train a network as a member.

    python benchmarks/sst2.py
    python benchmarks/sst2.py --encoder minilm_l6_v2    # including fine-tuning: half an hour
    python benchmarks/sst2.py --encoder e5_small        # an hour
    python benchmarks/sst2.py --encoder e5_small --seeds 1 --only blend --budget 7200
"""

from __future__ import annotations

import time

import numpy as np
from _common import parser, sst2, table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import FineTunedClassifier, PretrainedFeatureExtractor, TransferClassifier

GLOVE = "glove_6b_50d"
# encoder: layers that are concatenated, and settings of fine-tuning
ENCODERS = {
    "minilm_l6_v2": (["layer.3", "sentence"], [(2, 3, 1e-4), ("all", 2, 1e-4)]),
    "e5_small": (
        ["layer.8", "layer.11"],
        [(2, 3, 1e-4), (4, 3, 1e-4), ("all", "auto", "auto")],
    ),
}
POOLINGS = ["avg", "max", "idf", "sif", "zipf", ["avg", "max"], ["avg", "max", "idf", "sif"]]


def on_features(*steps):
    return make_pipeline(*steps, LogisticRegression(max_iter=5000))


def words() -> dict:
    models = {"TF-IDF + logistic regression": [on_features(TfidfVectorizer())]}
    for pooling in POOLINGS:
        extractor = PretrainedFeatureExtractor(GLOVE, pooling=pooling)
        models[f"GloVe, pooling={pooling}"] = [on_features(extractor)]
    models["GloVe tuned, trainable=all"] = tuned(GLOVE, {"trainable": "all"}, 3)
    return models


def encoder(name: str, seeds: int, memory: str | None, budget: float | None) -> dict:
    def extractor(**settings):
        return PretrainedFeatureExtractor(name, memory=memory, **settings)

    layers, trainings = ENCODERS[name]
    models = {
        f"{name} + logistic regression": [on_features(extractor())],
        f"{name}, {' and '.join(layers)}": [on_features(extractor(layer=layers))],
    }
    for trainable, epochs, lr in trainings:
        settings = {"trainable": trainable, "lr": lr, "max_epochs": epochs}
        row = tuned(name, settings | {"memory": memory}, seeds)
        models[f"{name} tuned, {described(settings)}"] = row
    settings = {"memory": memory, "time_budget": budget}
    blends = [TransferClassifier(name, random_state=s, **settings) for s in range(seeds)]
    return models | {f"{name}, blend": blends}


def tuned(backbone: str, settings: dict, seeds: int) -> list:
    return [FineTunedClassifier(backbone, random_state=s, **settings) for s in range(seeds)]


def described(settings: dict) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--split", default="test", choices=["dev", "test"])
    options.add_argument("--encoder", choices=list(ENCODERS))
    options.add_argument("--memory", help="a folder that keeps features and activations")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--budget", type=float, help="seconds; None trains no network in a blend")
    options.add_argument("--only", default="", help="models whose name contains this")
    args = options.parse_args()
    train, judge = sst2(args.data, "train"), sst2(args.data, args.split)
    rows = []
    settings = args.seeds, args.memory, args.budget
    models_of = words() if args.encoder is None else encoder(args.encoder, *settings)
    for name, models in models_of.items():
        if args.only not in name:
            continue
        start = time.perf_counter()
        scores = [model.fit(*train).score(*judge) for model in models]
        seconds = (time.perf_counter() - start) / len(models)
        spread = f"{min(scores):.4f} to {max(scores):.4f}" if len(scores) > 1 else ""
        rows.append([name, f"{np.mean(scores):.4f}", spread, f"{seconds:.1f}"])
        print(*rows[-1], flush=True)
    table(["what", f"{args.split} accuracy", "spread", "seconds, fit and score"], rows)


if __name__ == "__main__":
    main()
