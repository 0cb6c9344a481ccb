"""Page faults and resident memory of transform and of training

    python benchmarks/page_faults.py [--samples 64]

For the main thread, another thread, and a process of joblib, each in a fresh program: page faults
and milliseconds of processor time an image of a second ``transform`` of arrays (224 × 224,
EfficientNet-Lite0), resident memory afterwards, and the same of an epoch of
``FineTunedClassifier(trainable="all")`` at 128 pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np

PLACES = ["main thread", "other thread", "joblib process"]


def measured(function: Callable, n: int) -> dict[str, float]:
    """Run a function; return faults and milliseconds a sample, and resident memory in MB."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
    function()
    milliseconds = (time.process_time() - start) / n * 1e3
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / n
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * resource.getpagesize() / 1e6
    return {"faults": faults, "ms": milliseconds, "MB": resident}


def work(n: int) -> list[dict[str, float]]:
    from sktransfer import FineTunedClassifier, PretrainedFeatureExtractor

    X = np.random.default_rng(0).integers(0, 255, (n, 224, 224, 3), dtype=np.uint8)
    y = np.arange(n) % 2
    extractor = PretrainedFeatureExtractor().fit(X[:4])
    extractor.transform(X[:8])
    results = [measured(lambda: extractor.transform(X), n)]
    model = FineTunedClassifier(trainable="all", image_size=128, max_epochs=1, random_state=0)
    model.fit(X[:16], y[:16])
    return [*results, measured(lambda: model.fit(X, y), n)]


def run(place: str, n: int) -> None:
    """Measure in this process, in the given place, and print a line of JSON."""
    results: list = []
    if place == "main thread":
        results = work(n)
    elif place == "other thread":
        thread = threading.Thread(target=lambda: results.extend(work(n)))
        thread.start()
        thread.join()
    else:
        from joblib import Parallel, delayed

        results = Parallel(n_jobs=2)([delayed(work)(n)])[0]
    print(json.dumps(results))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--samples", type=int, default=64)
    options.add_argument("--place", choices=PLACES, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.place:
        run(args.place, args.samples)
        return
    print("| place | call | faults an image | ms an image | resident, MB |\n|---|---|---|---|---|")
    for place in PLACES:
        command = [sys.executable, "-W", "ignore", __file__, "--samples", str(args.samples)]
        process = subprocess.run(
            [*command, "--place", place], env=os.environ, check=True, capture_output=True, text=True
        )
        results = json.loads(process.stdout.splitlines()[-1])
        for call, values in zip(["transform", "an epoch of all stages"], results, strict=True):
            numbers = f"{values['faults']:.0f} | {values['ms']:.1f} | {values['MB']:.0f}"
            print(f"| {place} | {call} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
