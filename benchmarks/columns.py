"""Measure images, texts and numbers in one TransferClassifier, and in a ColumnTransformer.

Each sample has a photograph of ants or bees, a sentence of SST-2 and three numbers, of which one
says which half of its range it is in. The eight classes are the combinations of insect, sentiment
and half, so that each column decides a third of the label. Accuracy of TransferClassifier, and of
logistic regression behind a ColumnTransformer with n_components= and without, on the same folds:
five folds, repeated with other seeds.

    python benchmarks/columns.py
    python benchmarks/columns.py --seeds 1
"""

from __future__ import annotations

import tempfile
import warnings

import numpy as np
import pandas as pd
from _common import hymenoptera, parser, sst2
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor, TransferClassifier

COMPONENTS = (None, 10, 30, 100)
NETWORKS = {"photo": "efficientnet_lite0", "text": "minilm_l6_v2"}


def samples(data, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    paths, insects = hymenoptera(data, "train")
    texts, sentiment = sst2(data, "train")
    chosen = rng.choice(len(texts), len(paths), replace=False)
    numbers = rng.normal(size=(len(paths), 3))
    half = numbers[:, 0] > 0
    numbers[:, 0] += rng.normal(scale=0.3, size=len(paths))
    table = pd.DataFrame(numbers, columns=["a", "b", "c"])
    table["photo"], table["text"] = paths, [texts[i] for i in chosen]
    label = [f"{i} {sentiment[j]} {h}" for i, j, h in zip(insects, chosen, half, strict=True)]
    return table, np.array(label)


def model(n_components, scaled: bool, memory: str):
    settings = {"n_components": n_components, "memory": memory}
    columns = [
        (PretrainedFeatureExtractor(**settings), ["photo"]),
        (PretrainedFeatureExtractor("minilm_l6_v2", **settings), ["text"]),
        (StandardScaler(), ["a", "b", "c"]),
    ]
    if scaled:
        columns = [(make_pipeline(step, StandardScaler()), names) for step, names in columns]
    return make_pipeline(make_column_transformer(*columns), LogisticRegression(max_iter=2000))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=3)
    args = options.parse_args()
    warnings.simplefilter("ignore")
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as memory:
        for seed in range(args.seeds):
            X, y = samples(args.data, seed)
            folds = StratifiedKFold(5, shuffle=True, random_state=seed)
            for n in COMPONENTS:
                for scaled in (False, True):
                    scores = cross_val_score(model(n, scaled, memory), X, y, cv=folds)
                    name = f"n_components={n}, {'standardised' if scaled else 'as they are'}"
                    found.setdefault(name, []).append(scores.mean())
            blend = TransferClassifier(NETWORKS, memory=memory, random_state=0)
            scores = cross_val_score(blend, X, y, cv=folds)
            found.setdefault("TransferClassifier", []).append(scores.mean())
    print("| contestant | accuracy | over seeds |\n|---|---|---|")
    for name, scores in found.items():
        spread = f"{min(scores):.3f} to {max(scores):.3f}"
        print(f"| {name} | {np.mean(scores):.3f} | {spread} |")
    best = max(np.mean(scores) for name, scores in found.items() if name != "TransferClassifier")
    print(
        f"\nTransferClassifier minus the best: {np.mean(found['TransferClassifier']) - best:+.3f}"
    )


if __name__ == "__main__":
    main()
