"""Run the corpora of hostile input and count their outcomes.

Every case runs in another process, whose end is a crash. "right" is the value that the format
defines, or for damaged input any value that the package promises; "one error" is a ValueError,
TypeError, OSError or MemoryError with a message of 1 to 500 characters. The feature stores are run
by random sequences of operations, with damaged files in between; `benchmarks/store_faults.py` kills
processes that write. Projects whose code changes between two processes must not get features of
yesterday; those that nothing describes are refused. The program fails if one outcome is another.

    python benchmarks/corpora.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.corpora.cases import OUTCOMES, count
from tests.corpora.images import all_images, of_damaged_files
from tests.corpora.models import all_models
from tests.corpora.stale import WAYS, find_stale
from tests.corpora.test_corpora import run_operations
from tests.corpora.texts import of_labels, of_texts
from tests.corpora.weights import all_weights


def run(name: str, cases: list) -> list[str]:
    """Run a corpus, print a line of the table, and return what failed."""
    start = time.perf_counter()
    counts, failed = count(cases)
    numbers = "".join(f"{counts[outcome]:>12,}" for outcome in OUTCOMES)
    print(f"{name:22}{len(cases):>8,}{numbers}{time.perf_counter() - start:>9.0f} s", flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="rounds of damaged images")
    parser.add_argument("--examples", type=int, default=400, help="sequences of operations")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{'corpus':22}{'cases':>8}" + "".join(f"{outcome:>12}" for outcome in OUTCOMES))
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        failed += run("images", all_images(root))
        for seed in range(1, args.seeds + 1):
            failed += run(f"damaged images, {seed}", of_damaged_files(seed))
        failed += run("texts", of_texts())
        failed += run("labels", of_labels())
        failed += run("files of models", all_models(root))
        for seed in range(3):
            (root / str(seed)).mkdir()
            failed += run(f"files of weights, {seed}", all_weights(root / str(seed), seed))
        start = time.perf_counter()
        outcomes = list(find_stale(root / "stale", list(WAYS)).values())
        counts = {outcome: outcomes.count(outcome) for outcome in ("right", "refused", "stale")}
        failed += ["features of yesterday"] * counts["stale"]
        seconds = time.perf_counter() - start
        print(f"code that changed, of {len(WAYS)} ways: {counts}, {seconds:.0f} s", flush=True)
        n = run_operations(root / "stores", args.examples, 50)
        print(f"operations on feature stores: {n:,}, 0 wrong")
    sys.exit("\n".join(failed) if failed else 0)


if __name__ == "__main__":
    main()
