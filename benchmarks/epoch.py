"""Measure an epoch of training the whole network, compared with a loop written by hand.

ResNet-18 with random weights, photographs as arrays of 500 x 375 pixels or so, AdamW, batches of
32. Both preprocess the images of each batch in every epoch; the loop does nothing else than that
and the steps. A round is an epoch: the time of one in `history_`, and of one of the loop. Both
begin with the same weights, whose outputs are asserted to be equal, and the training loss of the
last epoch is asserted to be equal to a third.

    python benchmarks/epoch.py
"""

from __future__ import annotations

import copy
import time
import warnings

import numpy as np
import torch
from _common import Case, hymenoptera, parser, record, speeds
from torch import nn

from sktransfer import FineTunedClassifier, load_backbone
from sktransfer.data import open_image
from sktransfer.features import open_sample

QUICK = {"rounds": 3, "samples": 48}
LR = 1e-4


def by_hand(start: FineTunedClassifier, X: list, codes: torch.Tensor, epochs: int) -> tuple:
    """Train a copy of the initial network; return the seconds and the mean loss of each epoch."""
    network = copy.deepcopy(start._tuned.tail).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=1e-4)
    seconds, losses, torch_rng = [], [], torch.Generator().manual_seed(0)
    for _ in range(epochs):
        begin, total = time.perf_counter(), 0.0
        for index in torch.randperm(len(X), generator=torch_rng).split(32):
            batch = torch.stack([open_sample(X[i], start.backbone_) for i in index])
            loss = nn.functional.cross_entropy(network(batch), codes[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(index)
        seconds.append(time.perf_counter() - begin)
        losses.append(total / len(X))
    return seconds, losses


def assert_equal(start: FineTunedClassifier, X: list) -> None:
    """Assert that both begin with the same network."""
    batch = torch.stack([open_sample(image, start.backbone_) for image in X[:4]])
    with torch.no_grad():
        logits = copy.deepcopy(start._tuned.tail).eval()(batch)
    found = torch.from_numpy(start.predict_proba(X[:4]))
    torch.testing.assert_close(found.float(), logits.softmax(1), atol=1e-4, rtol=1e-3)


def main() -> None:
    options = parser(__doc__, rounds=5, quick=QUICK)
    options.add_argument("--samples", type=int, default=128)
    args = options.parse_args()
    warnings.filterwarnings("ignore")
    paths, y = hymenoptera(args.data, "train")
    rows = np.random.default_rng(0).permutation(len(y))[: args.samples]
    X, codes = [open_image(paths[i]) for i in rows], np.unique(y[rows], return_inverse=True)[1]
    backbone = load_backbone("resnet18", weights=None)
    settings = {"trainable": "all", "lr": LR, "batch_size": 32, "random_state": 0, "device": "cpu"}
    start = FineTunedClassifier(backbone, max_epochs=0, **settings).fit(X, codes)
    assert_equal(start, X)
    slow, losses = by_hand(start, X, torch.as_tensor(codes), args.rounds)
    model = FineTunedClassifier(backbone, max_epochs=args.rounds, **settings).fit(X, codes)
    fast, mine = ([row[key] for row in model.history_] for key in ("dur", "train_loss"))
    print(f"  losses by hand {np.round(losses, 3)}, of sktransfer {np.round(mine, 3)}")
    assert abs(mine[-1] - losses[-1]) <= max(mine[-1], losses[-1]) / 3 + 0.02
    note = f"training loss {losses[-1]:.3f} and {mine[-1]:.3f} after {args.rounds} epochs"
    values = speeds({"by hand": slow, "sktransfer": fast}, len(X))
    aims = {"sktransfer": 0.95}
    record(
        __file__, args, [Case("ResNet-18, all stages", "images/s", values, "by hand", aims, note)]
    )


if __name__ == "__main__":
    main()
