"""Compare the code of a tutorial that fine-tunes ResNet-18 with skorch and sktransfer.

Counted are lines of code and frozen tensors that changed. The code of the tutorial freezes by
`requires_grad` and trains the whole network; the statistics of batch normalisation in the frozen
part then change. Random weights, 32 photographs, one epoch.

    python benchmarks/tutorial.py
"""

from __future__ import annotations

import copy
import inspect
import warnings

import numpy as np
import torch
from _common import hymenoptera, parser, table

from sktransfer import FineTunedClassifier, load_backbone
from sktransfer.features import compute_inputs


def as_the_tutorial_does(network, X, y):
    import skorch
    from skorch.callbacks import Freezer, LRScheduler
    from torch import nn

    class PretrainedModel(nn.Module):
        def __init__(self, output_features):
            super().__init__()
            model = network
            num_ftrs = model.fc.in_features
            model.fc = nn.Linear(num_ftrs, output_features)
            self.model = model

        def forward(self, x):
            return self.model(x)

    lrscheduler = LRScheduler(policy="StepLR", step_size=7, gamma=0.1)
    freezer = Freezer(lambda x: not x.startswith("model.fc"))
    net = skorch.NeuralNetClassifier(
        PretrainedModel,
        criterion=nn.CrossEntropyLoss,
        lr=0.001,
        batch_size=4,
        max_epochs=1,
        module__output_features=2,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[lrscheduler, freezer],
        verbose=0,
    )
    return net.fit(X, y)


def as_we_do(network, X, y):
    return FineTunedClassifier(network, trainable="head", batch_size=4, max_epochs=1).fit(X, y)


def moved(before: dict, after: dict) -> str:
    """Count the frozen tensors whose bits changed."""
    frozen = [name for name in before if not name.startswith("fc.")]
    changed = sum(not torch.equal(before[name], after[name]) for name in frozen)
    return f"{changed} of {len(frozen)}"


def lines(function) -> int:
    body = inspect.getsource(function).splitlines()[1:]
    return sum(bool(line.strip()) for line in body)


def main() -> None:
    args = parser(__doc__).parse_args()
    warnings.simplefilter("ignore")
    paths, labels = hymenoptera(args.data, "train")
    chosen = np.random.default_rng(0).permutation(len(paths))[:32]
    paths, labels = [paths[i] for i in chosen], labels[chosen]
    backbone = load_backbone("resnet18", weights=None)
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    X, codes = compute_inputs(paths, backbone), (labels == "bees").astype(np.int64)
    net = as_the_tutorial_does(copy.deepcopy(backbone.module), X, codes)
    theirs = {k.removeprefix("model."): v for k, v in net.module_.state_dict().items()}
    ours = as_we_do(backbone, paths, labels)
    rows = [
        ["the tutorial's", lines(as_the_tutorial_does), moved(before, theirs)],
        ["ours", lines(as_we_do), moved(before, ours.backbone_.module.state_dict())],
    ]
    table(["code", "lines, without opening images", "frozen tensors that moved"], rows)


if __name__ == "__main__":
    main()
