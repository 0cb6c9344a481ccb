"""Measure the test accuracy of word vectors and of a sentence encoder on SST-2.

6,920 training and 1,821 test sentences (the standard error is 0.010). Logistic regression has the
defaults of scikit-learn except max_iter. Random models have three seeds. Nothing is selected on
the test sentences; learning rates were selected on the development sentences (--split dev).

    python benchmarks/sst2.py
    python benchmarks/sst2.py --encoder     # with the encoder, including fine-tuning: half an hour
"""

from __future__ import annotations

import time

import numpy as np
from _common import parser, sst2, table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import FineTunedClassifier, PretrainedFeatureExtractor

GLOVE, ENCODER = "glove_6b_50d", "minilm_l6_v2"
POOLINGS = ["avg", "max", "idf", "sif", ["avg", "max"], ["avg", "max", "idf", "sif"]]


def on_features(*steps):
    return make_pipeline(*steps, LogisticRegression(max_iter=5000))


def words() -> dict:
    models = {"TF-IDF + logistic regression": [on_features(TfidfVectorizer())]}
    for pooling in POOLINGS:
        extractor = PretrainedFeatureExtractor(GLOVE, pooling=pooling)
        models[f"GloVe, pooling={pooling}"] = [on_features(extractor)]
    settings = {"trainable": "all", "lr": 3e-3, "max_epochs": 5, "batch_size": 64}
    models["GloVe tuned, " + described(settings)] = tuned(GLOVE, settings, 3)
    return models


def encoder(seeds: int) -> dict:
    models = {"MiniLM + logistic regression": [on_features(PretrainedFeatureExtractor(ENCODER))]}
    layers = PretrainedFeatureExtractor(ENCODER, layer=["layer.3", "sentence"])
    models["MiniLM, layers 3 and sentence"] = [on_features(layers)]
    for trainable, epochs in ((2, 3), ("all", 2)):
        settings = {"trainable": trainable, "lr": 1e-4, "max_epochs": epochs}
        models["MiniLM tuned, " + described(settings)] = tuned(ENCODER, settings, seeds)
    return models


def tuned(backbone: str, settings: dict, seeds: int) -> list:
    return [FineTunedClassifier(backbone, random_state=s, **settings) for s in range(seeds)]


def described(settings: dict) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--split", default="test", choices=["dev", "test"])
    options.add_argument("--encoder", action="store_true")
    options.add_argument("--seeds", type=int, default=3)
    args = options.parse_args()
    train, judge = sst2(args.data, "train"), sst2(args.data, args.split)
    rows = []
    for name, models in (encoder(args.seeds) if args.encoder else words()).items():
        start = time.perf_counter()
        scores = [model.fit(*train).score(*judge) for model in models]
        seconds = (time.perf_counter() - start) / len(models)
        spread = f"{min(scores):.4f} to {max(scores):.4f}" if len(scores) > 1 else ""
        rows.append([name, f"{np.mean(scores):.4f}", spread, f"{seconds:.1f}"])
        print(*rows[-1], flush=True)
    table(["what", f"{args.split} accuracy", "spread", "seconds, fit and score"], rows)


if __name__ == "__main__":
    main()
