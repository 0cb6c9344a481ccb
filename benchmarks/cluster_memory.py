"""Peak memory of the client and of the workers against the number of rows.

    python benchmarks/cluster_memory.py [--rows 2000 20000 1000000] [--partition 4096] [--quick]

A network that costs nothing, rows of eight numbers in a Parquet file, two worker processes. Each
number of rows has processes of its own. The baseline is the smallest number of rows.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _cluster import Free, cluster, extractor_of, peak_memory
from _common import Case, parser, record

from sktransfer import extract_to

QUICK = {"rows": [2_000, 20_000]}


def write_rows(path: Path, n: int) -> None:
    kind = pa.list_(pa.float32(), 8)
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, pa.schema([("x", kind), ("id", pa.int64())])) as writer:
        for start in range(0, n, 4096):
            m = min(4096, n - start)
            flat = pa.array(rng.normal(size=m * 8).astype(np.float32))
            rows = pa.FixedSizeListArray.from_arrays(flat, 8)
            writer.write_table(pa.table({"x": rows, "id": np.arange(start, start + m)}))


def measure(n: int, partition: int) -> None:
    """Print the peaks of the client and of the larger worker, in bytes, and the seconds."""
    with tempfile.TemporaryDirectory() as folder, cluster(2) as client:
        source = Path(folder) / "rows.parquet"
        write_rows(source, n)
        start = time.perf_counter()
        report = extract_to(
            Path(folder) / "f",
            extractor_of(Free()),
            source=source,
            column="x",
            keep="id",
            partition_size=partition,
            executor=client,
        )
        seconds = time.perf_counter() - start
        assert report.n_done == n
        print(peak_memory(), max(client.run(peak_memory).values()), seconds)


def main() -> None:
    made = parser(__doc__, quick=QUICK)
    made.add_argument("--rows", type=int, nargs="+", default=[2_000, 20_000, 1_000_000])
    made.add_argument("--partition", type=int, default=4096)
    made.add_argument("--one", type=int, help="measure one number of rows in this process")
    args = made.parse_args()
    if args.one is not None:
        measure(args.one, args.partition)
        return
    client: dict[str, list[float]] = {}
    worker: dict[str, list[float]] = {}
    for n in args.rows:
        command = [sys.executable, __file__, "--one", str(n), "--partition", str(args.partition)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks = list(map(float, done.stdout.split()))
        label = f"{n:,} rows"
        client[label], worker[label] = [peaks[0] / 1e6], [peaks[1] / 1e6]
        print(
            f"{label}: client {peaks[0] / 1e6:.0f} MB, worker {peaks[1] / 1e6:.0f} MB, "
            f"{peaks[2]:.0f} s",
            flush=True,
        )
    first, last = f"{args.rows[0]:,} rows", f"{args.rows[-1]:,} rows"
    cases = [
        Case(f"the {what}, {last}", "MB", values, first, {last: 1.1})
        for what, values in (("client", client), ("larger worker", worker))
    ]
    record(__file__, args, cases)


if __name__ == "__main__":
    main()
