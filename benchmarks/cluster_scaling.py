"""Efficiency against the number of workers, and where the scheduler becomes the limit.

    python benchmarks/cluster_scaling.py [--workers 1 16 64 128 256] [--seconds 1 4] [--tasks 10]

Single-thread workers that are given the tasks of an extraction by Dask; a task sleeps in place of
computing. Client and scheduler share one process, and the workers two others, which is more work
for a process than on a real cluster. The efficiency is the ratio of tasks a second to workers
over seconds. What a task costs the client and the scheduler is the processor time of their process
for tasks that take no time, so that it does not depend on other work of the machine.

From this time, a simulation follows the tasks of larger clusters: one server that takes that time
for each task, and workers with two tasks each. Last comes an estimate for 10^8 images.
"""

from __future__ import annotations

import dataclasses
import heapq
import time

from _cluster import cpu_seconds, many_workers
from _common import Case, parser, record, table

from sktransfer.features.partitions.plan import ParquetRows, Partition, Reading
from sktransfer.features.partitions.run import DaskPool, Done, run_partitions

N_FREE = 400  # tasks that take no time
SIMULATED = (64, 256, 512, 1600)  # workers
SECONDS = 10.0
QUICK = {"workers": [1, 16], "seconds": [1.0]}


@dataclasses.dataclass(frozen=True)
class Function:
    payload: bytes = bytes(4096)  # as the default network by its name
    key: str = "key"


@dataclasses.dataclass(frozen=True)
class Sleep:
    """Takes the place of the function that computes a partition."""

    seconds: float
    function: Function = Function()

    def __call__(self, partition: Partition, n_threads=None) -> Done:
        time.sleep(self.seconds)
        return Done(len(partition), 0)


def partitions(n: int):
    reading = Reading("path", (), None)  # type: ignore[arg-type]
    for i in range(n):
        rows = ParquetRows("s3://bucket/photos.parquet", i * 4096, (i + 1) * 4096, "s3://bucket")
        yield Partition(i * 4096, (rows,), reading, f"{i:016x}")


def run(client, n_tasks: int, seconds: float) -> float:
    start = time.perf_counter()
    pool = DaskPool(Sleep(seconds), client, None)
    for _ in run_partitions(partitions(n_tasks), pool, 0):
        pass
    return time.perf_counter() - start


def main() -> None:
    made = parser(__doc__, quick=QUICK)
    made.add_argument("--workers", type=int, nargs="+", default=[1, 16, 64, 128, 256])
    made.add_argument("--seconds", type=float, nargs="+", default=[1.0, 4.0])
    made.add_argument("--tasks", type=int, default=10, help="tasks for each worker")
    made.add_argument("--rate", type=float, default=50.0, help="images a second of one core")
    made.add_argument("--cores", type=int, default=16, help="cores of a machine")
    args = made.parse_args()
    costs, cases = {}, []
    for n in args.workers:
        with many_workers(n) as client:
            run(client, 2 * n, 0.0)
            before = cpu_seconds()
            run(client, N_FREE, 0.0)
            costs[f"{n} workers"] = [(cpu_seconds() - before) / N_FREE * 1e3]
            for seconds in args.seconds:
                rate = args.tasks * n / run(client, args.tasks * n, seconds)
                values = {"as many as possible": [n / seconds], "Dask": [rate]}
                name = f"{n} workers, tasks of {seconds:g} s"
                cases.append(Case(name, "tasks/s", values, "as many as possible"))
                print(f"{name}: {rate * seconds / n:.3f}", flush=True)
    cases.append(Case("processor time of client and scheduler for a task", "ms", costs))
    cost = max(value for (value,) in costs.values()) / 1e3
    simulated = {f"{n} workers": [simulate(n, SECONDS, cost)] for n in SIMULATED}
    name = f"simulated, tasks of {SECONDS:g} s"
    ideal = {"1 worker": [simulate(1, SECONDS, cost)]}
    cases.append(Case(f"{name}, for each worker", "tasks/s", ideal | simulated, "1 worker"))
    record(__file__, args, cases)
    estimate(cost, args)


def simulate(n_workers: int, seconds: float, cost: float, n_tasks: int = 20) -> float:
    """Return how many tasks a second each worker does.

    One server needs ``cost`` seconds for each task before a worker can begin it. Each worker has
    two tasks, one of which waits, and gets another when one ends.
    """
    slots = [(0.0, i) for i in range(n_workers)] * 2
    heapq.heapify(slots)
    free, server = [0.0] * n_workers, 0.0
    for _ in range(n_workers * n_tasks):
        time_of_slot, worker = heapq.heappop(slots)
        server = max(server, time_of_slot) + cost
        free[worker] = max(server, free[worker]) + seconds
        heapq.heappush(slots, (free[worker], worker))
    return n_tasks / max(free)


def estimate(cost: float, args) -> None:
    """Print efficiencies that follow from the time for one task, and hours and bytes."""
    numbers = (64, 512, 1600, 10_000)
    rows = [
        [size, f"{s:.0f}", *[f"{simulate(n, s, cost) * s:.2f}" for n in numbers]]
        for size, s in ((size, size / args.rate) for size in (512, 1024, 4096, 16384))
    ]
    print(
        f"\nA task costs the client and the scheduler {cost * 1e3:.2f} ms. Efficiency, simulated:"
    )
    table(["partition_size", "s", *[f"{n} workers" for n in numbers]], rows)
    n, workers = 10**8, 100 * args.cores
    hours = n / (workers * args.rate) / 3600
    print(
        f"\n10^8 images, 100 machines of {args.cores} cores, {args.rate:g} images a second a core: "
        f"{hours:.2f} hours, {n // 4096 + 1:,} tasks of 4096 rows, {workers} workers, "
        f"{n / 4096 * cost / 60:.1f} minutes of the scheduler. Features of 1280 numbers: "
        f"{n * 1280 * 4 / 1e9:.0f} GB in float32, {n * 1280 * 2 / 1e9:.0f} GB in float16, and "
        f"{n * 24 / 1e9:.1f} GB of rows and digests."
    )


if __name__ == "__main__":
    main()
