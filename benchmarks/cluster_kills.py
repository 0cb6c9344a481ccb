"""Kill workers at random moments, and compare the parts with those of an unbroken run.

    python benchmarks/cluster_kills.py [--kills 30] [--rows 960] [--seed 0] [--quick] [--record]

Two worker processes, partitions of four rows that take 50 ms each. Runs are repeated, into new
folders, until the number of kills is reached. The files of each run are asserted to equal those
of an unbroken run, bit for bit.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from _cluster import Sleeping, cluster, extractor_of
from _common import Case, parser, record

from sktransfer import extract_to

QUICK = {"kills": 4, "rows": 240}


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.iterdir() if not path.name.startswith(".new-")]
    return {path.name: path.read_bytes() for path in sorted(paths)}


class Killer(threading.Thread):
    """Kills a worker process at random moments until it is stopped."""

    def __init__(self, client, rng: random.Random, most: int):
        super().__init__()
        self.client, self.rng, self.most, self.n = client, rng, most, 0
        self.stopped = threading.Event()

    def run(self) -> None:
        while self.n < self.most and not self.stopped.wait(self.rng.uniform(0.2, 2.0)):
            workers = sorted(self.client.nthreads())
            if len(workers) < 2:  # a nanny gives up if its worker is killed while it starts
                self.client.cluster.scale(2)
            found = self.client.run(os.getpid, workers=workers, on_error="ignore") or {}
            if found:
                os.kill(self.rng.choice(sorted(found.values())), signal.SIGKILL)
                self.n += 1


def main() -> None:
    made = parser(__doc__, quick=QUICK)
    made.add_argument("--kills", type=int, default=30)
    made.add_argument("--rows", type=int, default=960)
    made.add_argument("--seed", type=int, default=0)
    args = made.parse_args()
    X = np.random.default_rng(0).normal(size=(args.rows, 8)).astype(np.float32)
    extractor = extractor_of(Sleeping(0.05), batch_size=4)
    rng, n_kills, n_runs, start = random.Random(args.seed), 0, 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        with cluster(2) as client:
            target = Path(name) / "whole"
            unbroken = timed(target, extractor, X, client)
            expected = contents(target)
        broken = []
        while n_kills < args.kills:
            with cluster(2) as client:
                killer = Killer(client, rng, args.kills - n_kills)
                killer.start()
                target = Path(name) / f"f{n_runs}"
                broken.append(timed(target, extractor, X, client))
                killer.stopped.set()
                killer.join()
            assert contents(target) == expected
            n_kills, n_runs = n_kills + killer.n, n_runs + 1
            print(f"run {n_runs}: {killer.n} kills, {len(expected)} files equal", flush=True)
    print(f"{time.perf_counter() - start:.0f} s")
    note = f"{n_kills} kills in {n_runs} runs; {len(expected)} files equal bit for bit in each"
    values = {"unbroken": [unbroken] * n_runs, "workers killed": broken}
    name = f"{args.rows // 4} tasks, {args.kills} kills"
    record(__file__, args, [Case(name, "s", values, "unbroken", note=note)])


def timed(target: Path, extractor, X: np.ndarray, client) -> float:
    start = time.perf_counter()
    extract_to(target, extractor, source=X, partition_size=4, executor=client, retries=20)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
