"""Measure an epoch of training the whole network, compared with a loop written by hand.

ResNet-18 with random weights, photographs as arrays of about 500 x 375 pixels, AdamW, batches
of 32. *By hand* is a loop over the network of torchvision, which preprocesses the images in
each epoch, or takes them from one tensor in memory. The training losses are equal to 0.01 %,
and the predictions to 1e-3.

    python benchmarks/epoch.py
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from _common import Case, hymenoptera, parser, record, speeds
from sklearn.utils import check_random_state
from skorch.callbacks import Callback
from torch import nn

from sktransfer import FineTunedClassifier, load_backbone
from sktransfer.data import get_modality

QUICK = {"rounds": 3, "samples": 48, "epochs": 1}
open_image = get_modality("image").open
LR, BATCH, WARMUP, SEED = 1e-4, 32, 0.1, 0


def network_of(start: FineTunedClassifier) -> nn.Module:
    """Return the network of torchvision with the head of a model that was not trained yet."""
    network, module = copy.deepcopy(start.backbone_.module), copy.deepcopy(start._tuned.module)
    network.fc = module.head
    network.requires_grad_(True).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # as train_batch_norm=False
    return network.to(memory_format=torch.channels_last)


def orders(n: int) -> Iterator[torch.Tensor]:
    """Yield the order of the rows in each epoch."""
    seed = int(check_random_state(SEED).randint(2**31 - 1))
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randperm(n, generator=generator)
        torch.randint(2**31, (1,), generator=generator)  # the seed of augmented views


def factor(step: int, n_steps: int) -> float:
    """Return the factor on the learning rate: a linear warm-up, then half a cosine."""
    n_warmup = round(n_steps * WARMUP)
    if step < n_warmup:
        return (step + 1) / (n_warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / (n_steps - n_warmup)))


def train(network: nn.Module, load: Callable, codes: torch.Tensor, args) -> tuple:
    """Train a network; return the seconds and the mean loss of each epoch."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=1e-4)
    n_steps = args.epochs * math.ceil(len(codes) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, n_steps))
    seconds, losses = [], []
    for _, order in zip(range(args.epochs), orders(len(codes)), strict=False):
        begin, total = args.clock(), 0.0
        for index in order.split(BATCH):
            batch = load(index).contiguous(memory_format=torch.channels_last)
            loss = nn.functional.cross_entropy(network(batch), codes[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(index)
        seconds.append(args.clock() - begin)
        losses.append(total / len(codes))
    return seconds, losses


class Clock(Callback):
    """Note the seconds of each epoch."""

    def __init__(self, clock: Callable):
        self.clock = clock
        self.seconds: list[float] = []

    def on_epoch_begin(self, net, **kwargs):
        self.seconds.append(-self.clock())

    def on_epoch_end(self, net, **kwargs):
        self.seconds[-1] += self.clock()


@torch.no_grad()
def probabilities(network: nn.Module, load: Callable, n: int) -> np.ndarray:
    return network.eval()(load(torch.arange(n))).softmax(1).numpy()


def assert_equal(losses: dict[str, list[float]], outputs: dict[str, np.ndarray]) -> str:
    """Assert that all have trained the same network, and describe how nearly."""
    for name in losses:
        np.testing.assert_allclose(losses[name], losses["by hand"], rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(outputs[name], outputs["by hand"], atol=1e-3, err_msg=name)
    mine, wanted = np.array(losses["sktransfer"]), np.array(losses["by hand"])
    far = np.max(np.abs(mine - wanted) / wanted)
    return f"training losses {', '.join(f'{x:.3f}' for x in mine)}, equal to {far:.0e}"


def contestants(start: FineTunedClassifier, X: list, codes: np.ndarray, settings, args) -> dict:
    """Return a function for each, that trains and returns seconds, losses and probabilities."""
    backbone = start.backbone_
    kept = torch.stack([backbone.open(image) for image in X])
    loads = {
        "by hand": lambda index: torch.stack([backbone.open(X[i]) for i in index]),
        "by hand, images preprocessed once": lambda index: kept[index],
    }

    def by_hand(load: Callable) -> tuple:
        network = network_of(start)
        found = train(network, load, torch.as_tensor(codes), args)
        return *found, probabilities(network, load, len(X))

    def ours() -> tuple:
        made = FineTunedClassifier(backbone, callbacks=[("clock", Clock(args.clock))], **settings)
        model = made.fit(X, codes)
        (clock,) = (c for name, c in model.net_.callbacks_ if name == "clock")
        losses = [row["train_loss"] for row in model.history_]
        return clock.seconds, losses, model.predict_proba(X)

    found = {name: lambda load=load: by_hand(load) for name, load in loads.items()}
    return found | {"sktransfer": ours}


def main() -> None:
    options = parser(__doc__, rounds=5, quick=QUICK)
    options.add_argument("--samples", type=int, default=128)
    options.add_argument("--epochs", type=int, default=2)
    args = options.parse_args()
    warnings.filterwarnings("ignore")
    paths, y = hymenoptera(args.data, "train")
    rows = np.random.default_rng(0).permutation(len(y))[: args.samples]
    X, codes = [open_image(paths[i]) for i in rows], np.unique(y[rows], return_inverse=True)[1]
    torch.manual_seed(0)
    backbone = load_backbone("resnet18", weights=None)
    settings = {"trainable": "all", "lr": LR, "batch_size": BATCH}
    settings["net_params"] = {"callbacks__schedule__warmup": WARMUP}
    settings |= {"random_state": SEED, "device": "cpu", "max_epochs": args.epochs}
    start = FineTunedClassifier(backbone, **settings | {"max_epochs": 0}).fit(X, codes)
    runs = contestants(start, X, codes, settings, args)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for r in range(args.rounds):
        found = {name: runs[name]() for name in rotated(list(runs), r)}
        note = assert_equal(
            {k: v[1] for k, v in found.items()}, {k: v[2] for k, v in found.items()}
        )
        for name, (seconds, *_) in found.items():
            times[name].append(float(np.mean(seconds)))
        print(f"  round {r + 1}: { ({k: round(v[-1], 2) for k, v in times.items()}) }", flush=True)
    aims = {"sktransfer": 0.95}
    values = speeds(times, len(X))
    record(
        __file__, args, [Case("ResNet-18, all stages", "images/s", values, "by hand", aims, note)]
    )


def rotated(names: list[str], r: int) -> list[str]:
    k = r % len(names)
    return names[k:] + names[:k]


if __name__ == "__main__":
    main()
