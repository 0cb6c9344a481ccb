"""Measure how fast each runtime runs a network, compared with a plain loop of PyTorch.

Images a second, from preprocessed tensors to pooled features of the penultimate layer, in one
process and in turns: a plain loop (batches of 32, default memory format, torch.inference_mode), and
the engines "torch", "openvino" and "onnxruntime" with their own batch size, in float32 and in
bfloat16 where the runtime has it. In float32 the features are asserted to be equal to 1e-4 first
(relative L2 distance of each sample); in bfloat16 the largest distance is printed. Conversions are
not timed, but printed.

Two times are given: the time that passes, and the time of the process on all cores, which other
work on the machine changes less. Run with OMP_NUM_THREADS=1 to compare the two.

    OMP_NUM_THREADS=1 python benchmarks/engines.py
"""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from _common import parser, ratio, table

from sktransfer import load_backbone
from sktransfer.backbones import Backbone, stages_of
from sktransfer.backbones.layers import penultimate
from sktransfer.engines import check_engine, pool
from sktransfer.features import Recipe

CPU = torch.device("cpu")


def plain_loop(backbone: Backbone, layer: str, x: torch.Tensor, size: int = 32) -> Callable:
    stages = stages_of(backbone)
    used = list(stages.values())[: list(stages).index(layer) + 1]
    network = copy.deepcopy(torch.nn.Sequential(*used))

    @torch.inference_mode()
    def run() -> np.ndarray:
        parts = [pool(network(x[i : i + size]), "avg") for i in range(0, len(x), size)]
        return torch.cat(parts).numpy()

    return run


def contestants(backbone: Backbone, x: torch.Tensor) -> dict[str, Callable]:
    """Prepare each runtime on one sample, and return a function for each."""
    layer = penultimate(backbone)
    found = {"plain loop": plain_loop(backbone, layer, x)}
    for precision in ("float32", "bfloat16"):
        for engine in ("torch", "openvino", "onnxruntime"):
            try:
                check_engine(engine, CPU, precision)
            except (ImportError, ValueError) as error:
                print(f"  left out: {error}")
                continue
            recipe = Recipe(backbone, (layer,), precision=precision, runtime=engine)
            backbone.prepared.pop("engines", None)  # keeps two
            made, start = recipe.engine(CPU), time.perf_counter()
            made.run(x[:1])
            print(f"  {engine}, {precision}: prepared in {time.perf_counter() - start:.1f} s")
            found[f"{engine}, {precision}"] = lambda made=made: made.run(x)[layer]
    return found


def check(name: str, features: np.ndarray, wanted: np.ndarray) -> None:
    distance = np.linalg.norm(features - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    print(f"  {name}: largest relative distance {distance.max():.1e}", flush=True)
    assert distance.max() <= (0.3 if "bfloat16" in name else 1e-4), (name, distance.max())


def measure(variants: dict[str, Callable], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds, passed and of the process, of each call in rotating order."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    names = list(variants)
    for r in range(rounds):
        k = r % len(names)
        for name in names[k:] + names[:k]:
            start, busy = time.perf_counter(), time.process_time()
            variants[name]()
            times[name].append((time.perf_counter() - start, time.process_time() - busy))
        print(f"  round {r + 1}, load {os.getloadavg()[0]:.1f}", flush=True)
    return times


def rows_of(network: str, times: dict, n: int) -> list[list]:
    rows, (base, base_busy) = [], zip(*times["plain loop"], strict=True)
    for name, each in times.items():
        passed, busy = zip(*each, strict=True)
        speeds = f"{n / median(passed):.0f}", f"{n / median(busy):.0f}"
        rows.append([network, name, *speeds, ratio(base, passed), ratio(base_busy, busy)])
    return rows


def main() -> None:
    options = parser(__doc__, rounds=5)
    options.add_argument("--samples", type=int, default=64)
    args = options.parse_args()
    warnings.filterwarnings("ignore", message="weights=None")
    rows = []
    for name, weights in (("efficientnet_lite0", "default"), ("resnet18", None)):
        print(name, flush=True)
        backbone = load_backbone(name, weights=weights)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(args.samples, *backbone.input_shape, generator=generator)
        variants = contestants(backbone, x)
        outputs = {variant: run() for variant, run in variants.items()}
        for variant, features in outputs.items():
            check(variant, features, outputs["plain loop"])
        rows += rows_of(name, measure(variants, args.rounds), args.samples)
    header = ["network", "how", "images/s", "images/s of one core", "times the plain loop"]
    table([*header, "the same, by time of the process"], rows)


if __name__ == "__main__":
    main()
