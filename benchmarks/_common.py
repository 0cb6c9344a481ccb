"""Functions that the benchmarks share: data sets, counters, timing and tables."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import _performance
import numpy as np
import sklearn
import torch
from _performance import Case
from _processes import timed
from PIL import Image

from sktransfer.engines import Engine

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


__all__ = ["Case", "timed"]


def parser(
    doc: str, rounds: int | None = None, quick: dict | None = None
) -> argparse.ArgumentParser:
    """Make the options that every benchmark has; its docstring is the help.

    ``quick`` are the settings of the quick form, such as ``{"rounds": 2, "samples": 32}``. With
    them, there are the options ``--quick`` and ``--record``, for :func:`record`.
    """
    kind = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=doc, formatter_class=kind)
    made.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    if rounds is not None:
        made.add_argument("--rounds", type=int, default=rounds)
    if quick is not None:
        made.add_argument("--quick", action=_Quick, settings=quick, help=f"the same as {quick}")
        made.add_argument("--record", action="store_true", help="write to docs/performance")
        made.add_argument("--cpu-time", dest="clock", action="store_const", const=time.process_time)
        made.set_defaults(clock=time.perf_counter)
    return made


class _Quick(argparse.Action):
    """Set several options at once."""

    def __init__(self, option_strings, dest, settings, help=None):
        super().__init__(option_strings, dest, nargs=0, default=False, help=help)
        self.settings = settings

    def __call__(self, parser, namespace, values, option_string=None):
        vars(namespace).update(self.settings | {"quick": True})


def record(script: str, args: argparse.Namespace, cases: list[Case]) -> None:
    """Print the cases, and with ``--record`` write them to docs/performance/NAME.jsonl.

    Parameters
    ----------
    script : str
        ``__file__`` of the benchmark, which gives NAME.
    args : Namespace
        Of :func:`parser`.
    cases : list of Case
    """
    print("\n" + _performance.table(cases), flush=True)
    if args.record:
        name = Path(script).stem
        _performance.write(name, _performance.command(name, sys.argv[1:]), cases)


def folder(data: Path, name: str) -> Path:
    """Return the folder of a data set, or exit with a message if it is missing."""
    path = data / name
    if not path.is_dir():
        sys.exit(f"No folder {path}: give the one that holds {name}/ as --data.")
    return path


def hymenoptera(data: Path, split: str, placeholder: bool = False) -> tuple[list[str], np.ndarray]:
    """List images and labels of ants and bees, train (244) or val (153), sorted by path.

    One training file, ``ants/imageNotFound.gif``, shows the words "this image could not be found".
    It is included only with ``placeholder=True``.
    """
    found = sorted(path for path in folder(data, f"hymenoptera/{split}").glob("*/*.*"))
    kept = [path for path in found if placeholder or path.name != "imageNotFound.gif"]
    return [str(path) for path in kept], np.array([path.parent.name for path in kept])


def photographs(data: Path, n: int = 400) -> tuple[list[str], np.ndarray]:
    """Return n photographs of ants, bees and 50 other objects, shuffled, and their labels."""
    (a, y_a), (b, y_b) = hymenoptera(data, "train"), hymenoptera(data, "val")
    others = sorted(map(str, folder(data, "imagenet50").iterdir()))
    paths = np.array(others + a + b)
    y = np.concatenate([["other"] * len(others), y_a, y_b])
    order = np.random.default_rng(0).permutation(len(paths))[:n]
    return paths[order].tolist(), y[order]


def sst2(data: Path, split: str) -> tuple[list[str], np.ndarray]:
    """Read sentences and labels (1 is positive) of a split: train, dev or test."""
    lines = (folder(data, "sst2") / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.rsplit("\t", 1) for line in lines]
    return [text for text, _ in pairs], np.array([int(label) for _, label in pairs])


def as_arrays(paths: list[str], size: int = 224) -> np.ndarray:
    """Open photographs as one array ``(n, size, size, 3)``, uint8."""
    return np.stack(
        [np.asarray(Image.open(p).convert("RGB").resize((size, size), 2)) for p in paths]
    )


@contextlib.contextmanager
def count_forward() -> Iterator[list[int]]:
    """Count the samples that pass through any network in the context."""
    counted, run = [0], Engine.run

    def counting(self, tensors, *args, **kwargs):
        rows = run(self, tensors, *args, **kwargs)
        counted[0] += len(next(iter(rows.values())))
        return rows

    Engine.run = counting
    try:
        yield counted
    finally:
        Engine.run = run


def interleave(
    variants: dict[str, Callable], rounds: int, clock: Callable = time.perf_counter
) -> dict[str, list[float]]:
    """Time every variant once a round, in rotating order; print all rounds."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    names, faults = list(variants), dict.fromkeys(variants, 0)
    for r in range(rounds):
        k = r % len(names)
        for name in names[k:] + names[:k]:
            seconds, faults[name] = timed(variants[name], clock)
            times[name].append(seconds)
        results = (f"{n} {times[n][-1]:.4g} s ({faults[n] / 1e3:.0f}k faults)" for n in names)
        line = "; ".join(results)
        print(f"  round {r + 1}, load {os.getloadavg()[0]:.1f}: {line}", flush=True)
    return times


def speeds(times: dict[str, list[float]], n: int) -> dict[str, list[float]]:
    """Return how many of n samples a second each variant reached in each round."""
    return {name: [n / seconds for seconds in each] for name, each in times.items()}


def ratio(a: list[float], b: list[float]) -> str:
    """Return the median over rounds of a / b, and the smallest and largest."""
    each = [x / y for x, y in zip(a, b, strict=True)]
    return f"{median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def table(header: list[str], rows: list[list]) -> None:
    """Print a Markdown table, and the versions and settings below it."""
    lines = [header, ["---"] * len(header), *rows]
    print("\n" + "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))
    settings = {k: v for k, v in os.environ.items() if k.startswith(("OMP_", "OPENBLAS_"))}
    print(
        f"\nPython {platform.python_version()}, scikit-learn {sklearn.__version__}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads, environment {settings}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
