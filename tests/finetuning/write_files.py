"""Write the file of fitted models that later versions must open.

Run ``python -m tests.finetuning.write_files`` where the layout of files gets a new number, and
keep the files of earlier numbers: ``test_tuned.py`` opens each of them in a new process.
"""

import warnings

import joblib
import numpy as np
import torch
from torch import nn

from sktransfer import FineTunedClassifier, FineTunedRegressor
from sktransfer.finetuning.tuned import FORMAT
from tests.support import TESTS, images

FILES = TESTS / "data" / "files"


def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)


def module() -> nn.Module:
    """Layers of torch alone, so that no code of the tests is needed to open a file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh())


def models() -> dict:
    """Return fitted models by name, each with samples."""
    X = vectors()
    labels = np.array(["ant", "bee", "wasp"])[np.arange(60) % 3]
    several = (X[:, :2] > 0).astype(int)
    settings = {"max_epochs": 2, "lr": 0.01, "batch_size": 32, "random_state": 0}
    classifier = FineTunedClassifier(
        module(), trainable=1, head="mlp", dropout=0.2, rehearsal=2, **settings
    ).fit(X[:40], labels[:40])
    pictures = images(6, size=(32, 32))
    by_name = FineTunedClassifier(image_size=32, **settings).fit(pictures, [1, 2] * 3)
    made = {
        "labels": classifier,
        "more labels": FineTunedClassifier(classifier, head="mlp", **settings).fit(X, labels),
        "several labels": FineTunedClassifier(module(), trainable="all", **settings).fit(
            X, several
        ),
        "a head of one layer": FineTunedClassifier(module(), head=nn.Linear, **settings).fit(
            X, labels
        ),
        "numbers": FineTunedRegressor(
            module(), validation_fraction=0.2, train_batch_norm=True, **settings
        ).fit(X, 1000 * X[:, :2]),
        "features": classifier.to_features().fit(X),
    }
    return {name: (model, X) for name, model in made.items()} | {"by name": (by_name, pictures)}


def outputs(model, X) -> np.ndarray:
    """Return what is compared: probabilities, predictions or features."""
    names = ("predict_proba", "predict", "transform")
    name = next(name for name in names if hasattr(model, name))
    return getattr(model, name)(X)


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Training did not help")  # in two epochs
        kept = {name: (model, X, outputs(model, X)) for name, (model, X) in models().items()}
    FILES.mkdir(exist_ok=True)
    joblib.dump(kept, FILES / f"fitted_{FORMAT}.joblib", compress=3)


if __name__ == "__main__":
    main()
