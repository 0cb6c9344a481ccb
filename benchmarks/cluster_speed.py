"""Extraction on a cluster of two processes with one thread against one process with two threads.

    python benchmarks/cluster_speed.py [--images 20000] [--partition 4096] [--rounds 2] [--quick]

Generated JPEGs of 256 x 256 pixels, the default network. The features are equal first. The overhead
is the time in one process outside of the computation of features: reading the list, Parquet files
and bookkeeping.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _cluster import cluster, cpu_seconds, write_jpegs
from _common import Case, interleave, parser, record, speeds

from sktransfer import PretrainedFeatureExtractor, extract_to, load_features
from sktransfer.features import FeatureFunction

QUICK = {"images": 400, "partition": 64}


def main() -> None:
    made = parser(__doc__, rounds=2, quick=QUICK)
    made.add_argument("--images", type=int, default=20_000)
    made.add_argument("--partition", type=int, default=4096)
    args = made.parse_args()
    with tempfile.TemporaryDirectory() as name, cluster(2) as client:
        folder = Path(name)
        paths = write_jpegs(folder, args.images)
        extractor = PretrainedFeatureExtractor(n_jobs=None).fit(paths[:1])
        count = iter(range(10**6))
        targets: dict[str, str] = {}
        inside, whole = [], []

        def run(label: str, executor=None) -> None:
            targets[label] = str(folder / f"f{next(count)}")
            extract_to(
                targets[label],
                extractor,
                source=paths,
                partition_size=args.partition,
                executor=executor,
            )

        def one_process() -> None:
            torch.set_num_threads(2)
            inside.append(0.0)
            with watched(inside):
                start = time.perf_counter()
                run("one")
                whole.append(time.perf_counter() - start)
            torch.set_num_threads(1)

        warm = paths[: min(64, args.images)]
        extract_to(folder / "warm", extractor, source=warm, partition_size=8, executor=client)
        processor: dict[str, list[float]] = {"one process": [], "cluster": []}

        def spent() -> float:
            return cpu_seconds() + sum(client.run(cpu_seconds).values())

        def counted(label: str, function) -> None:
            before = spent()
            function()
            processor[label].append(spent() - before)

        variants = {
            "one process": lambda: counted("one process", one_process),
            "cluster": lambda: counted("cluster", lambda: run("cluster", client)),
        }
        times = interleave(variants, args.rounds)
        a, b = (load_features(targets[k])[0] for k in ("one", "cluster"))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    name = f"{args.images:,} images"
    fast = speeds(times, args.images)
    cases = [
        Case(name, "images/s", fast, "one process", {"cluster": 0.9}, "features equal to 1e-3"),
        Case(f"{name}, processor time", "s", processor, "one process"),
        Case(
            f"{name}, one process, outside of the features",
            "s",
            {"features": inside, "extract_to": whole},
            "features",
            {"extract_to": 1.03},
        ),
    ]
    record(__file__, args, cases)


class watched:
    """Add up the time in the computation of features."""

    def __init__(self, inside: list[float]):
        self.inside = inside

    def __enter__(self):
        self.compute = compute = FeatureFunction.compute
        inside = self.inside

        def timed(function, samples):
            start = time.perf_counter()
            try:
                return compute(function, samples)
            finally:
                inside[-1] += time.perf_counter() - start

        FeatureFunction.compute = timed

    def __exit__(self, *error):
        FeatureFunction.compute = self.compute


if __name__ == "__main__":
    main()
