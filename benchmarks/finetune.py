"""Measure the accuracy of fine-tuning on ants and bees, for each depth and augmentation.

244 training and 153 validation images, three seeds. One image is 0.0065, the standard error
0.016. "probe" is max_epochs=0. Nothing is selected on the validation images. Training the whole
network takes minutes a fit.

    python benchmarks/finetune.py
    python benchmarks/finetune.py --depths all --augments none
"""

from __future__ import annotations

import tempfile
import time

import numpy as np
from _common import hymenoptera, parser, table

from sktransfer import FineTunedClassifier

SEEDS = range(3)


def row(name: str, train, val, **settings) -> list[str]:
    """Fit once for each seed; return mean, spread, best epochs and seconds."""
    scores, epochs, start = [], [], time.perf_counter()
    for seed in SEEDS:
        model = FineTunedClassifier(random_state=seed, **settings).fit(*train)
        scores.append(model.score(*val))
        epochs.append(str(model.best_epoch_))
        print(f"  {name}, seed {seed}: {scores[-1]:.4f}", flush=True)
    seconds = (time.perf_counter() - start) / len(scores)
    spread = f"{min(scores):.4f} to {max(scores):.4f}"
    return [name, f"{np.mean(scores):.4f}", spread, ", ".join(epochs), f"{seconds:.0f}"]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--depths", nargs="+", default=["head", "1", "2"])
    options.add_argument("--augments", nargs="+", default=["none", "light"])
    options.add_argument("--held", nargs="+", type=float, default=[0.0, 0.2])
    options.add_argument("--image-size", type=int)
    args = options.parse_args()
    train, val = hymenoptera(args.data, "train"), hymenoptera(args.data, "val")
    with tempfile.TemporaryDirectory() as memory:
        size = {"image_size": args.image_size, "memory": memory}
        rows = [row("probe", train, val, max_epochs=0, **size)]
        for depth in args.depths:
            trainable = int(depth) if depth.isdigit() else depth
            for augment in (None if name == "none" else name for name in args.augments):
                for held in args.held:
                    name = f"{trainable}, augment={augment}, validation_fraction={held}"
                    settings = {"trainable": trainable, "augment": augment, **size}
                    rows.append(row(name, train, val, validation_fraction=held, **settings))
    table(["what", "val, mean of three seeds", "spread", "best epochs", "seconds a fit"], rows)


if __name__ == "__main__":
    main()
