"""Measure the size of the files of a fitted model.

Two classes on a pretrained network of which the head, the last stage or everything is trained.
*skorch*: `joblib.dump(net)` with Adam, frozen part included. *state dict*: all weights once.
*pickle* and *save* (`sktransfer.save`) refer to the registered network for the weights that it
did not change; *self-contained* holds them too. Predictions of the opened models are equal.

    python benchmarks/files.py
"""

from __future__ import annotations

import copy
import io
import pickle
import tempfile
import warnings
from pathlib import Path

import numpy as np
import skorch
import torch
from _common import Case, hymenoptera, parser, record
from torch import nn

import sktransfer
from sktransfer import FineTunedClassifier
from sktransfer.backbones import stages_of

QUICK = {"rounds": 1}


def n_bytes_of_skorch(model: FineTunedClassifier, X: list[str]) -> int:
    """Return the size of a net with the same network, after a step of Adam."""
    stages = copy.deepcopy(stages_of(model.backbone_))
    frozen = [stages[name] for name in model.frozen_layers_]
    network = nn.Sequential(*frozen, copy.deepcopy(model._tuned.module)).requires_grad_(True)
    settings = {"criterion": nn.CrossEntropyLoss, "optimizer": torch.optim.Adam, "verbose": 0}
    net = skorch.NeuralNetClassifier(network, max_epochs=1, train_split=None, **settings)
    net.fit(torch.randn(2, *model.backbone_.input_shape), torch.tensor([0, 1]))
    return len(pickle.dumps(net))


def n_bytes_of_weights(model: FineTunedClassifier) -> int:
    buffer = io.BytesIO()
    torch.save(model.backbone_.module.state_dict(), buffer)
    return buffer.tell()


def sizes(model: FineTunedClassifier, X: list[str], folder: Path) -> dict[str, list[float]]:
    """Write a model in each way, open it again, and return MB."""
    expected = model.predict_proba(X)
    data = pickle.dumps(model)
    np.testing.assert_allclose(pickle.loads(data).predict_proba(X), expected, atol=1e-6)
    found = {
        "skorch": n_bytes_of_skorch(model, X),
        "state dict": n_bytes_of_weights(model),
        "pickle": len(data),
    }
    for name, whole in (("save", False), ("save, self-contained", True)):
        path = folder / "model.skt"
        sktransfer.save(model, path, self_contained=whole)
        np.testing.assert_allclose(sktransfer.load(path).predict_proba(X), expected, atol=1e-6)
        found[name] = path.stat().st_size
    return {name: [size / 1e6] for name, size in found.items()}


def main() -> None:
    args = parser(__doc__, rounds=1, quick=QUICK).parse_args()
    warnings.filterwarnings("ignore")
    paths, y = hymenoptera(args.data, "train")
    X, y, cases = paths[:4] + paths[-4:], np.concatenate([y[:4], y[-4:]]), []
    with tempfile.TemporaryDirectory() as folder:
        for what, trainable in {"head": "head", "last stage": 1, "all stages": "all"}.items():
            model = FineTunedClassifier(trainable=trainable, max_epochs=1, random_state=0).fit(X, y)
            values = sizes(model, X, Path(folder))
            name = f"EfficientNet-Lite0, {what} trained"
            cases.append(Case(name, "MB", values, "skorch", note="predictions equal"))
    record(__file__, args, cases)


if __name__ == "__main__":
    main()
