"""Write the tables of families of networks in docs/guide/backbones.md from those of the sweeps.

Networks with the same cells stand in one row. Above a table is how many pass each step.

    python -m pytest -m sweep tests/backbones/test_image_folders.py --sweep-table hf.csv
    python -m pytest -m sweep tests/backbones/test_sweep_texts.py --sweep-table texts.csv
    python -m pytest -m sweep tests/backbones/test_timm_sizes.py --sweep-table timm.csv
    python docs/family_tables.py --images hf.csv --texts texts.csv --timm timm.csv
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pandas as pd

PAGE = Path(__file__).resolve().parent / "guide" / "backbones.md"
TABLES = {"images": "Images, `hf:`", "texts": "Texts, `hf:`", "timm": "Images, `timm:`"}
STEPS = ["loads", "equals", "layers", "sizes", "trained", "blend", "pickle", "save", "ONNX"]
NOT_RUN = "not run"


def is_passed(cell: str) -> bool:
    """Tell whether a cell of a sweep says that a network passes the step."""
    return not cell.startswith(("no", "refused"))


def cells(row: pd.Series) -> tuple[str, ...]:
    """Return what the page says about a network: layers, other sizes, ONNX."""
    found = ["blocks" if is_passed(row["layers"]) else "one stage"]
    if row["layers"] == NOT_RUN:
        return (NOT_RUN,) * (3 if "sizes" in row else 2)
    if "sizes" in row:
        n_sizes = len(row["sizes"].split()) if is_passed(row["sizes"]) else 0
        found.append(["no", "one", "yes"][min(n_sizes, 2)])
    refused = row["ONNX"].startswith("refused")
    return (*found, "refused, with the reason" if refused else row["ONNX"])


def render(table: pd.DataFrame) -> str:
    """Return the lines between the heading of a table and the next text."""
    steps = [step for step in STEPS if step in table]
    table = table.astype(object).where(table.notna(), NOT_RUN).astype(str)
    counts = [f"{sum(map(is_passed, table[step]))} {step}" for step in steps]
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, row in table.iterrows():
        rows.setdefault(cells(row), []).append(str(name))
    heads = ["families", "layers", *["other sizes"] * ("sizes" in table), "ONNX"]
    lines = [heads, ["---"] * len(heads), *([", ".join(v), *k] for k, v in rows.items())]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"Of {len(table)} networks pass: {', '.join(counts)}.\n\n{text}\n"


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in TABLES:
        options.add_argument(f"--{name}", type=Path, help="CSV of the sweep")
    args = options.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    for name, heading in TABLES.items():
        path = getattr(args, name)
        if path is None:
            continue
        table = pd.read_csv(path).set_index("network")
        table = table[~table.index.str.endswith(", classifier")]
        before = re.compile(rf"(### {re.escape(heading)}\n\n).*?\| families.*?\n\n", re.DOTALL)
        made = render(table)
        page = before.sub(lambda match, made=made: f"{match[1]}{made}\n", page, count=1)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
