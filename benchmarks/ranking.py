"""Measure how well scores rank networks: weighted Kendall tau, five draws.

Nine networks of different quality: EfficientNet-Lite 0, 1 and 2, the first at three input sizes,
cut after two thirds of its stages, and with noise of three strengths added to its weights. Three
data sets, drawn at random five times. The reference is the test accuracy after fine-tuning the
last two stages for five epochs. A tau of 1 is the same order, 0 is no relation; the weights
emphasise the top of the ranking (Vigna 2015).

    python benchmarks/ranking.py                 # half an hour on one core
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _common import parser, table
from _tasks import Task
from scipy.stats import weightedtau

from sktransfer import Backbone, FeatureStore, FineTunedClassifier, load_backbone, rank_backbones
from sktransfer.backbones.stages import stages_of

SCORES = ("probe", "logme", "h_score", "transrate", "leep", "nce")
# source, pixels, samples of a class
TASKS = [("ants and bees", 128, 40), ("digits", 96, 12), ("damaged", 128, 25)]


def damaged(backbone: Backbone, strength: float) -> Backbone:
    """Add noise to all weights, relative to the standard deviation of each tensor."""
    module, generator = copy.deepcopy(backbone.module), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim > 1:
                noise = torch.randn(weight.shape, generator=generator)
                weight += strength * weight.std() * noise
    settings = {"preprocess": backbone.preprocess, "classes": backbone.classes}
    return Backbone(f"{backbone.name}+{strength}", module, **settings)


def shortened(backbone: Backbone, last: str) -> Backbone:
    """Return the first stages of a network, as a backbone without classes."""
    stages = stages_of(backbone)
    names = list(stages)
    kept = {name: stages[name] for name in names[: names.index(last) + 1]}
    module = torch.nn.Sequential(*kept.values())
    return Backbone(f"up to {last}", module, preprocess=backbone.preprocess, stages=kept)


def networks(size: int) -> dict[str, Backbone]:
    lite0, lite1, lite2 = (
        load_backbone(f"efficientnet_lite{i}").with_image_size(size) for i in range(3)
    )
    found = {"lite0": lite0, "lite1": lite1, "lite2": lite2}
    found |= {f"lite0 at {side}": lite0.with_image_size(side) for side in (size // 2, size // 4)}
    found["lite0 to blocks.10"] = shortened(lite0, "blocks.10")
    return found | {f"lite0, noise {s}": damaged(lite0, s) for s in (0.2, 0.4, 0.8)}


def measure(task: Task, draw: int, args) -> dict:
    """Score and fine-tune each network on one draw."""
    train, test = task.draw(args.data, draw)
    row = {"task": task.name, "draw": draw, "truth": {}, "seconds": {}}
    backbones = networks(task.image_size)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        store = FeatureStore(folder)
        for score in SCORES:
            start = time.perf_counter()
            found = rank_backbones(*train, backbones, score=score, memory=store)
            row[score] = dict(zip(found.names, found.scores.tolist(), strict=True))
            row["seconds"][score] = time.perf_counter() - start  # the first runs the networks
        start = time.perf_counter()
        for name, backbone in backbones.items():
            model = FineTunedClassifier(
                backbone, trainable=2, max_epochs=5, memory=store, random_state=draw
            )
            row["truth"][name] = model.fit(*train).score(*test)
        row["seconds"]["truth"] = time.perf_counter() - start
    return row


def tau(row: dict, score: str) -> float:
    """Return the weighted tau of a score, over the networks for which it is defined."""
    names = [name for name, value in row[score].items() if not np.isnan(value)]
    return weightedtau([row[score][n] for n in names], [row["truth"][n] for n in names]).statistic


def report(rows: list[dict]) -> None:
    cells = []
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        taus = [[tau(row, score) for row in own] for score in SCORES]
        cells.append([task, *(f"{np.mean(t):.2f} ± {np.std(t):.2f}" for t in taus)])
        truth = {n: np.mean([row["truth"][n] for row in own]) for n in own[0]["truth"]}
        print(task, {n: round(float(v), 3) for n, v in truth.items()})
        seconds = {k: np.mean([row["seconds"][k] for row in own]) for k in own[0]["seconds"]}
        print("  seconds", {k: round(float(v), 1) for k, v in seconds.items()})
    table(["weighted Kendall tau", *SCORES], cells)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--draws", type=int, default=5)
    options.add_argument("--out", type=Path, default=Path("ranking.jsonl"))
    args = options.parse_args()
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    rows = [json.loads(line) for line in lines]
    done = {(row["task"], row["draw"]) for row in rows}
    for draw in range(args.draws):
        for source, size, n in TASKS:
            task = Task(source, n, image_size=size)
            if (task.name, draw) not in done:
                rows.append(measure(task, draw, args))
                with args.out.open("a") as file:
                    print(json.dumps(rows[-1]), file=file)
                print(task.name, draw, {s: round(tau(rows[-1], s), 2) for s in SCORES}, flush=True)
    report(rows)


if __name__ == "__main__":
    main()
