"""Count the changes of the code that its tests notice.

`mutmut` makes mutants: copies of a function with one change, such as `<` for `<=`. A mutant that no
test fails for is either equivalent to the function or shows that a test is missing. The modules and
their tests stand in `setup.cfg`. A seeded sample of the mutants of each package is run, and those
that survive are printed. The mutants lie in the folder `mutants`.

    python benchmarks/mutants.py --sample 300
    python benchmarks/mutants.py --names sktransfer.features.blocks.x__runs__mutmut_3
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from mutmut.configuration import config
from mutmut.mutation.file_mutation import mutate_file_contents

ROOT = Path(__file__).resolve().parents[1]
# Exit statuses of pytest and of mutmut; all others are signals.
OUTCOMES = {0: "survived", 5: "no tests", 33: "no tests", 1: "killed", 3: "killed", 36: "timeout"}


def names_of(path: Path) -> list[str]:
    """Return the names of the mutants of a module."""
    module = ".".join(path.with_suffix("").parts)
    made = mutate_file_contents(str(path), path.read_text(encoding="utf-8")).mutant_names
    return [f"{module}.{name}" for name in made]


def package_of(name: str) -> str:
    return ".".join(name.split(".")[:2])


def sample(n: int, seed: int, words: list[str]) -> list[str]:
    """Draw mutants of each package, at most n."""
    by_package = defaultdict(list)
    for path in sorted(Path("sktransfer").rglob("*.py")):
        if config().should_mutate(path):
            names = [name for name in names_of(path) if any(word in name for word in words or [""])]
            by_package[package_of(".".join(path.parts))] += names
    rng = np.random.default_rng(seed)
    for package, names in by_package.items():
        print(f"{package}: {min(n, len(names))} of {len(names)} mutants", flush=True)
    drawn = [rng.permutation(names)[:n].tolist() for names in by_package.values()]
    return sorted(name for names in drawn for name in names)


def outcomes() -> dict[str, str]:
    """Return the outcome of each mutant that was run."""
    found = {}
    for path in Path("mutants/sktransfer").rglob("*.meta"):
        for name, status in json.loads(path.read_text())["exit_code_by_key"].items():
            if status is not None:
                found[name] = OUTCOMES.get(status, "timeout" if status < 0 else f"status {status}")
    return found


def report(names: list[str]) -> None:
    """Print the numbers of each package, and the survivors."""
    found = outcomes()
    counts = defaultdict(Counter)
    for name in names:
        counts[package_of(name)][found.get(name, "not run")] += 1
    for package, numbers in counts.items():
        print(f"{package}: {sum(numbers.values())} mutants, {dict(numbers)}")
    for name in names:
        if found.get(name) not in ("killed", "timeout"):
            print(f"\n# {name}: {found.get(name)}", flush=True)
            subprocess.run([sys.executable, "-m", "mutmut", "show", name], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=300, help="mutants of each package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="words, one of which a name has")
    parser.add_argument("--names", nargs="*", help="these mutants instead of a sample")
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    os.chdir(ROOT)
    names = args.names or sample(args.sample, args.seed, args.only)
    run = [sys.executable, "-m", "mutmut", "run", "--max-children", str(args.processes), *names]
    done = subprocess.run(run, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    report(names)


if __name__ == "__main__":
    main()
