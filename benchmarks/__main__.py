"""List the benchmarks, run one by name, or run all those of docs/performance.md.

python -m benchmarks                            # a line for each
python -m benchmarks single --quick             # further options as python benchmarks/single.py
python -m benchmarks single --quick --record    # and write its lines, the page and its picture
python -m benchmarks --all --quick --record     # all with a quick form
python -m benchmarks --page                     # the page and the pictures, from the lines
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import time
from pathlib import Path

from . import _performance

HERE = Path(__file__).parent


def scripts() -> dict[str, Path]:
    """Return the benchmarks by name."""
    return {path.stem: path for path in sorted(HERE.glob("[!_]*.py"))}


def has_quick_form(path: Path) -> bool:
    """Tell whether a script has a constant QUICK, the settings of its quick form."""
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    targets = [node.targets for node in nodes if isinstance(node, ast.Assign)]
    return any(isinstance(t, ast.Name) and t.id == "QUICK" for each in targets for t in each)


def list_all() -> None:
    for name, path in scripts().items():
        mark = "*" if has_quick_form(path) else " "
        print(f"{mark} {name:18} {_performance.docstring(path)[0]}")
    print("\n* on the page docs/performance.md, with a quick form: --quick")


def run(name: str, options: list[str]) -> int:
    """Run a benchmark in a process of its own, as its memory and imports are part of it."""
    return subprocess.call([sys.executable, str(scripts()[name]), *options])


def run_all(options: list[str]) -> int:
    """Run all benchmarks with a quick form; return how many failed."""
    names = [name for name, path in scripts().items() if has_quick_form(path)]
    seconds, failed = {}, []
    for name in names:
        print(f"== {name}", flush=True)
        start = time.perf_counter()
        if run(name, options):
            failed.append(name)
        seconds[name] = time.perf_counter() - start
    print("\n" + "\n".join(f"{name:18} {taken:6.1f} s" for name, taken in seconds.items()))
    print(f"{'all':18} {sum(seconds.values()):6.1f} s; failed: {', '.join(failed) or 'none'}")
    return len(failed)


def main() -> int:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=kind
    )
    parser.add_argument("name", nargs="?", choices=scripts(), metavar="NAME")
    parser.add_argument("--all", action="store_true", help="run all with a quick form")
    parser.add_argument("--page", action="store_true", help="write the page and the pictures")
    args, options = parser.parse_known_args()
    if not (args.name or args.all or args.page):
        list_all()
        return 0
    failed = run_all(options) if args.all else run(args.name, options) if args.name else 0
    if args.page or "--record" in options:
        _performance.write_page()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
