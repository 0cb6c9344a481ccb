"""Measure ten epochs of the head and of the last block, compared with skorch alone.

In skorch alone, the frozen network is part of the module and runs in every epoch. Both train
from preprocessed arrays with the same initial weights, optimizer, batch size and number of
epochs, and reach equal accuracy (to two images). *By hand* is one pass through the frozen
stages, and ten epochs of the others in a loop without anything else.

    python benchmarks/finetune_speed.py
    python benchmarks/finetune_speed.py --depths 2
"""

from __future__ import annotations

import copy
import time

import numpy as np
import skorch
import torch
from _common import Case, hymenoptera, parser, record, speeds
from torch import nn

from sktransfer import FineTunedClassifier, ImagePreprocessing, load_backbone
from sktransfer.backbones.stages import stages_of
from sktransfer.features import Output, compute_inputs, compute_outputs

EPOCHS = 10
QUICK = {"rounds": 1, "samples": 40}


class Loop(nn.Module):
    """The whole network as a skorch module: frozen part in eval mode, without gradients."""

    def __init__(self, frozen: nn.Module, module: nn.Module):
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.module = module

    def train(self, mode: bool = True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x):
        with torch.no_grad():
            x = self.frozen(x)
        return self.module(x)


def plain_loop(start: FineTunedClassifier, X, codes, X_val) -> tuple[np.ndarray, float]:
    """Train from the initial weights of a fitted model; return predictions and seconds."""
    stages = stages_of(start.backbone_)
    frozen = copy.deepcopy(nn.Sequential(*[stages[name] for name in start.frozen_layers_]))
    module = copy.deepcopy(start.net_.module_).requires_grad_(True)
    net = skorch.NeuralNetClassifier(
        Loop(frozen, module),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=1e-4,
        lr=start.lr,
        max_epochs=EPOCHS,
        batch_size=32,
        iterator_train__shuffle=True,
        train_split=skorch.helper.predefined_split(skorch.dataset.Dataset(*X_val)),
        verbose=0,
    )
    begin = time.perf_counter()
    net.fit(X, codes)
    seconds = time.perf_counter() - begin
    return net.predict(X_val[0]), seconds


def ours(X, y, X_val, y_val, trainable, lr) -> tuple[FineTunedClassifier, float]:
    """Fit and evaluate the validation images in each epoch, as skorch alone does."""
    begin = time.perf_counter()
    model = FineTunedClassifier(as_array(), trainable=trainable, lr=lr, max_epochs=EPOCHS)
    model.set_params(random_state=0).fit(X, y)
    model.score(X_val, y_val)
    return model, time.perf_counter() - begin


def ideal(start: FineTunedClassifier, X, codes, X_val) -> float:
    """Time the frozen stages once, and ten epochs of the rest by hand."""
    begin = time.perf_counter()
    pooling = "none" if start.trained_layers_ else "avg"
    output = Output(start.backbone_, start.frozen_layers_[-1], pooling)
    rows, rows_val = (torch.from_numpy(compute_outputs(x, [output])[0]) for x in (X, X_val))
    module, target = copy.deepcopy(start.net_.module_).requires_grad_(True), torch.as_tensor(codes)
    optimizer = torch.optim.AdamW(module.parameters(), lr=start.lr, weight_decay=1e-4)
    for _ in range(EPOCHS):
        module.train()
        for index in torch.randperm(len(rows)).split(32):
            loss = nn.functional.cross_entropy(module(rows[index]), target[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        module.eval()(rows_val)
    return time.perf_counter() - begin


def as_array():
    """Return the default backbone for preprocessed inputs."""
    network = load_backbone("efficientnet_lite0")
    return load_backbone(network.module, name="lite0", classes=network.classes)


def measure(depth: str, data: tuple, rounds: int) -> Case:
    """Train both in turns; equal accuracy is asserted in each round."""
    X, y, X_val, y_val = data
    codes, codes_val = (np.unique(labels, return_inverse=True)[1] for labels in (y, y_val))
    trainable, lr = (depth, 1e-3) if depth == "head" else (int(depth), 1e-4)
    settings = {"trainable": trainable, "lr": lr, "random_state": 0}
    start = FineTunedClassifier(as_array(), max_epochs=0, **settings).fit(X, y)
    times: dict[str, list[float]] = {"skorch alone": [], "sktransfer": [], "by hand": []}
    for _ in range(rounds):
        torch.manual_seed(0)
        found, slow = plain_loop(start, X, codes, (X_val, codes_val))
        model, fast = ours(X, y, X_val, y_val, trainable, lr)
        accuracy, theirs = model.score(X_val, y_val), (found == codes_val).mean()
        assert abs(accuracy - theirs) <= 2.01 / len(y_val), (accuracy, theirs)
        for name, t in zip(times, (slow, fast, ideal(start, X, codes, X_val)), strict=True):
            times[name].append(t)
        print({name: round(t[-1], 2) for name, t in times.items()}, flush=True)
    note = f"accuracy {accuracy:.3f} and {theirs:.3f} of {len(y_val)} images"
    title = "the head" if depth == "head" else f"the last {depth} stages"
    title = f"{EPOCHS} epochs of {title.replace('last 1 stages', 'last stage')}, {len(y)} images"
    return Case(title, "runs/s", speeds(times, 1), "skorch alone", note=note)


def main() -> None:
    options = parser(__doc__, rounds=3, quick=QUICK)
    options.add_argument("--depths", nargs="+", default=["head", "1"])
    options.add_argument("--samples", type=int, default=400, help="at most, of each split")
    args = options.parse_args()
    network = load_backbone("efficientnet_lite0")
    assert isinstance(network.preprocess, ImagePreprocessing)
    data: list = []
    for split in ("train", "val"):
        paths, y = hymenoptera(args.data, split)
        rows = np.random.default_rng(0).permutation(len(y))[: args.samples]
        data += [compute_inputs([paths[i] for i in rows], network), y[rows]]
    record(__file__, args, [measure(depth, tuple(data), args.rounds) for depth in args.depths])


if __name__ == "__main__":
    main()
