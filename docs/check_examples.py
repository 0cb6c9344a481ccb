"""Run the examples of README.md and docs/, or of the files that are named.

    python docs/check_examples.py [--first] [FILE...]

Every fenced block marked ``python`` must hold examples with ``>>>``. The blocks of a page share
their variables, and each page starts anew in a folder that is empty but for the photographs of the
demo, in ``photos``. With ``--first``, only the first block of each page is run.
"""

import contextlib
import doctest
import re
import sys
import tempfile
from itertools import islice
from pathlib import Path

import sklearn.linear_model  # noqa: F401  # its threads can be limited once it is imported
import torch  # noqa: F401
from threadpoolctl import threadpool_limits

from sktransfer.cli.demo import write_photographs

ROOT = Path(__file__).resolve().parents[1]
FENCED = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def examples(page: Path, n_blocks: int | None = None) -> doctest.DocTest:
    """Collect the examples of a page; all other lines become empty, so that numbers stay."""
    text = page.read_text(encoding="utf-8")
    kept = re.sub(r"[^\n]+", "", text)
    lines, blank = text.split("\n"), kept.split("\n")
    for block in islice(FENCED.finditer(text), n_blocks):
        first = text.count("\n", 0, block.start(1))
        last = text.count("\n", 0, block.end(1))
        if not block[1].startswith(">>>"):
            raise SystemExit(f"{page}:{first + 1}: a python block without examples (>>>)")
        blank[first:last] = lines[first:last]
    parser = doctest.DocTestParser()
    return parser.get_doctest("\n".join(blank), {}, page.name, str(page), 0)


def main() -> None:
    arguments = sys.argv[1:]
    n_blocks = 1 if "--first" in arguments else None
    named = [Path(name).resolve() for name in arguments if name != "--first"]
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for page in named or [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        found = examples(page, n_blocks)
        # One thread: on a busy machine, small steps lose minutes waiting for a second core.
        where = tempfile.TemporaryDirectory()
        with threadpool_limits(1), where as folder, contextlib.chdir(folder):
            write_photographs(Path("photos"))
            failed, tried = runner.run(found)
        print(f"{page.relative_to(ROOT)}: {tried} examples, {failed} failed", flush=True)
    sys.exit(runner.failures > 0)


if __name__ == "__main__":
    main()
