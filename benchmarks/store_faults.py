"""Damage the files of feature stores, kill processes that write, and count wrong features.

Damage: a store of 1,000 samples in files of different sizes; in each round some of its files get
flipped bits, are cut, get zeros or the bytes of another place, exchange their names or are removed.
Then all samples are looked up, and a tenth of the missing ones is put again. Kills: two processes
write into one folder, one sample or 50 at a time, and print what `put` has acknowledged; they are
killed after a random time, and another process reads. The program fails if one value is wrong or
one acknowledged entry missing.

    python benchmarks/store_faults.py
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import parser

from sktransfer import FeatureStore

N, WIDTH = 1000, 50
WRITER = """
import sys
import numpy as np
from sktransfer import FeatureStore
store, who, n = FeatureStore(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for i in range(0, 1_000_000, n):
    digests = [f"{who}/{k}".encode() for k in range(i, i + n)]
    values = np.repeat(np.arange(i, i + n, dtype=np.float64)[:, None], 50, axis=1)
    store.put("recipe", digests, values)
    print(i + n, flush=True)
"""


def fill(folder: Path) -> tuple[FeatureStore, list[bytes], np.ndarray]:
    """Put 1,000 samples: 900 in three calls, 100 one by one."""
    store = FeatureStore(folder)
    digests = [i.to_bytes(4, "big") for i in range(N)]
    values = np.random.default_rng(0).normal(size=(N, WIDTH)).astype(np.float32)
    for part in [
        *(slice(i, i + 300) for i in (0, 300, 600)),
        *(slice(i, i + 1) for i in range(900, N)),
    ]:
        store.put("recipe", digests[part], values[part])
    return store, digests, values


def damage(files: list[Path], rng: np.random.Generator) -> None:
    """Damage one file in one of six ways."""
    path, other = rng.choice(files, 2, replace=False)
    content = bytearray(path.read_bytes())
    start, end = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    # Half of the damage is in the head, whose bytes are few.
    first = min(int(rng.integers(0, len(content) if rng.random() < 0.5 else 64)), len(content) - 1)
    kind = rng.integers(6)
    if kind == 0:
        for _ in range(rng.integers(1, 9)):
            content[first] ^= 1 << int(rng.integers(8))
            first = int(rng.integers(0, len(content)))
    elif kind == 1:
        del content[start:]
    elif kind == 2:
        content[start:end] = bytes(end - start)
    elif kind == 3:
        content[first : first + end - start] = content[start:end]
    elif kind == 4:  # another file has this name
        content = bytearray(other.read_bytes())
    path.write_bytes(content)
    if kind == 5:
        path.unlink()


def measure_damage(root: Path, rounds: int) -> None:
    rng, looked_up, missing = np.random.default_rng(0), 0, 0
    store, digests, values = fill(root / "damage")
    sound = {path: path.read_bytes() for path in store.path.iterdir()}
    for _ in range(rounds):
        for path in store.path.iterdir():
            if path not in sound:
                path.unlink()
        for path, content in sound.items():
            path.write_bytes(content)
        readers = [FeatureStore(store.location), FeatureStore(store.location)]
        readers[0].get("recipe", digests)  # has read the heads before the damage
        for _ in range(rng.integers(1, 4)):
            damage([path for path in sound if path.exists() and path.stat().st_size], rng)
        for reader in readers:
            found = reader.get("recipe", digests)
            absent = [i for i, value in enumerate(found) if value is None]
            pairs = zip(found, values, strict=True)
            wrong = [v for v, row in pairs if v is not None and v.tobytes() != row.tobytes()]
            assert not wrong, wrong
            looked_up, missing = looked_up + len(found), missing + len(absent)
            again = absent[::10]
            if again:
                reader.put("recipe", [digests[i] for i in again], values[again])
                found = reader.get("recipe", [digests[i] for i in again])
                assert [v.tobytes() for v in found] == [values[i].tobytes() for i in again]
    print(
        f"damage: {looked_up:,} values looked up in {rounds} rounds, {missing:,} missing, 0 wrong"
    )


def measure_kills(root: Path, kills: int) -> None:
    rng, n_acknowledged, n_found = np.random.default_rng(1), 0, 0
    for k in range(kills):
        folder, sizes = root / str(k), (1, 50)
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(folder), str(who), str(n)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for who, n in enumerate(sizes)
        ]
        first = [writer.stdout.readline() for writer in writers]
        time.sleep(rng.uniform(0, 1.5))
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        store = FeatureStore(folder)
        for who, (writer, line) in enumerate(zip(writers, first, strict=True)):
            lines = [line, *writer.communicate()[0].splitlines(keepends=True)]
            n = max(int(text) for text in lines if text.endswith("\n"))
            digests = [f"{who}/{i}".encode() for i in range(n + 200)]
            found = store.get("recipe", digests)
            assert all(value is not None for value in found[:n]), "an acknowledged entry is missing"
            assert all((v == i).all() for i, v in enumerate(found) if v is not None)
            n_acknowledged += n
            n_found += sum(value is not None for value in found)
        store.put("recipe", [b"after"], np.ones((1, 3)))
        assert store.get("recipe", [b"after"])[0][0] == 1
    print(
        f"kills: {n_acknowledged:,} acknowledged entries of {2 * kills} killed processes are there "
        f"(and {n_found - n_acknowledged} more), 0 wrong"
    )


def main() -> None:
    options = parser(__doc__, rounds=500)
    options.add_argument("--kills", type=int, default=15)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as root:
        measure_damage(Path(root), args.rounds)
        measure_kills(Path(root), args.kills)


if __name__ == "__main__":
    main()
