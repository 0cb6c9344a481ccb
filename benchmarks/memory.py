"""Measure memory and disk at 1,000, 10,000 and 100,000 JPEG files.

Each case runs in a process of its own over distinct JPEG files of 48 x 48 pixels, through a
small network. "Above the output" is the peak of the resident memory during the call, less that
before it and less the size of the result. "Written" are the bytes written to disk, as Linux
counts them. With `--keep`, resized images are kept in training up to that many bytes
(`max_cache_bytes`).

    python benchmarks/memory.py             # an hour on a busy machine
    python benchmarks/memory.py --quick     # without 100,000
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from _common import Case, parser, record
from PIL import Image
from torch import nn

from sktransfer import (
    Augmentation,
    FineTunedClassifier,
    ImagePreprocessing,
    PretrainedFeatureExtractor,
    load_backbone,
)

SIZES = [1_000, 10_000, 100_000]
QUICK = {"sizes": SIZES[:2]}
WARM = 200  # files of a first call, after which memory is measured
CALLS = ("transform", "fit, all stages", "fit, new views", "predict_proba")


def write_files(folder: Path, n: int) -> None:
    """Write distinct JPEG files that share a background, a hundred to a folder."""
    rng = np.random.default_rng(0)
    background = rng.integers(0, 255, (6, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    for i in range(n):
        if i % 100 == 0:
            (folder / f"{i // 100}").mkdir()
        image = background.copy()
        image[:8, :8].flat[:] = np.tile(np.frombuffer(i.to_bytes(4, "big"), np.uint8), 48)
        image[8:16, :8] = rng.integers(0, 255, (8, 8, 3), np.uint8)
        content = io.BytesIO()
        Image.fromarray(image).save(content, "JPEG", quality=90)
        (folder / f"{i // 100}" / f"{i}.jpg").write_bytes(content.getvalue())


def network() -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 16, 5, stride=4)
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8))


def status(name: str) -> float:
    """Return a line of the status of this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def written() -> float:
    path = Path("/proc/self/io")
    lines = (
        dict(line.split(": ") for line in path.read_text().splitlines()) if path.exists() else {}
    )
    return int(lines.get("write_bytes", 0)) / 1e6


def call(what: str, paths: list[str], keep: int):
    """Make what is measured: a function of a number of files."""
    preprocess = ImagePreprocessing(36, 32, (0.5,) * 3, (0.25,) * 3)
    backbone = load_backbone(network(), preprocess=preprocess)
    if what == "transform":
        extractor = PretrainedFeatureExtractor(backbone).fit(paths[:1])
        return lambda n: extractor.transform(paths[:n])
    views = {"augment": Augmentation(n_views=None)} if what == "fit, new views" else {}
    model = FineTunedClassifier(
        backbone, trainable="all", max_epochs=1, lr=1e-4, max_cache_bytes=keep, **views
    )
    labels = np.arange(len(paths)) % 2
    if what == "predict_proba":
        model.fit(paths[:WARM], labels[:WARM])
        return lambda n: model.predict_proba(paths[:n])
    return lambda n: model.fit(paths[:n], labels[:n])


def measure(what: str, folder: str, n: int, keep: int) -> dict:
    """Measure one call in this process."""
    warnings.simplefilter("ignore")
    paths = [f"{folder}/{i // 100}/{i}.jpg" for i in range(n)]
    run = call(what, paths, keep)
    run(WARM)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, on_disk, start = status("VmRSS"), written(), time.perf_counter()
    result = run(n)
    output = result.nbytes / 1e6 if isinstance(result, np.ndarray) else 0.0
    return {
        "above the output, MB": status("VmHWM") - before - output,
        "written, MB": written() - on_disk,
        "seconds": time.perf_counter() - start,
    }


def in_process(what: str, folder: str, n: int, keep: int) -> dict:
    command = [sys.executable, __file__, "--one", json.dumps([what, folder, n, keep])]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    print(f"  {what}, {n} files: {found}", flush=True)
    return found


def cases(args: argparse.Namespace, folder: str) -> list[Case]:
    made = []
    for what in CALLS:
        found = {n: in_process(what, folder, n, args.keep) for n in args.sizes}
        for key, unit in (("above the output, MB", "MB"), ("written, MB", "MB"), ("seconds", "s")):
            values = {f"{n:,} files": [round(one[key], 2)] for n, one in found.items()}
            made.append(Case(f"{what}: {key.partition(',')[0]}", unit, values))
    return made


def main() -> None:
    options = parser(__doc__, quick=QUICK)
    options.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    options.add_argument("--keep", type=int, default=2**24, help="max_cache_bytes")
    options.add_argument("--one", help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.one:
        print(json.dumps(measure(*json.loads(args.one))))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), max(args.sizes))
        found = cases(args, folder)
    record(__file__, args, found)


if __name__ == "__main__":
    main()
