"""The records of the benchmarks of speed, and the page docs/performance.md, made from them.

A record is one line of JSON in docs/performance/NAME.jsonl, where NAME is the benchmark: what was
measured in turns, with the values of all rounds, the command and the machine. A new run replaces
the lines of its cases and keeps the others.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import textwrap
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "docs" / "performance"
PAGE = ROOT / "docs" / "performance.md"
# The order of the page; others follow by name.
ORDER = (
    "transform",
    "peers",
    "single",
    "encoder_speed",
    "grid_search",
    "finetune_speed",
    "epoch",
    "store",
    "store_check",
    "million",
    "imports",
    "files",
    "memory",
    "loading",
    "service",
    "cluster_speed",
)
# Named at the end of the page, with their records and no table.
OTHERS = ("million", "cluster_kills", "cluster_memory", "cluster_search")
MODEL = "model\t"  # in the description of a processor, beside "model name"
LOAD_BEFORE = round(os.getloadavg()[0], 1)  # when a benchmark begins
PACKAGES = ("torch", "scikit-learn", "numpy", "openvino", "onnxruntime", "timm", "transformers")


@dataclass(frozen=True)
class Case:
    """What was measured in turns: a value of each contestant in each round.

    Parameters
    ----------
    name : str
        Unique in the benchmark, such as "ResNet-18, from paths".
    unit : str
        Of the values. Larger values are better if it ends with "/s", such as "images/s"; otherwise
        ("s", "ms", "MB") smaller ones are.
    values : dict of str to list of float
        By contestant, one value a round.
    baseline : str, optional
        The contestant with which the others are compared, round by round.
    aims : dict of str to float
        The ratio to the baseline that a contestant should reach: at least that many times as
        fast, or at most that many times as long.
    note : str
        What was asserted first, such as "features equal to 2e-6".
    """

    name: str
    unit: str
    values: dict[str, list[float]]
    baseline: str | None = None
    aims: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def ratios(self, contestant: str) -> list[float]:
        base = self.values[self.baseline]
        return [a / b for a, b in zip(self.values[contestant], base, strict=True)]


# -- records -----------------------------------------------------------------------------------


def command(script: str, options: list[str]) -> str:
    """Return the command of a record: without ``--record``, and without places on this machine."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--data")
    return " ".join(["python", f"benchmarks/{script}.py", *parser.parse_known_args(options)[1]])


def write(name: str, command: str, cases: list[Case], folder: Path = RECORDS) -> None:
    """Replace the lines of the cases in the file of a benchmark."""
    about = {"benchmark": name, "command": command, "machine": machine()}
    lines = {line["name"]: line for line in read(name, folder)}
    lines |= {case.name: asdict(case) | about for case in cases}
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines.values())
    (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def read(name: str, folder: Path = RECORDS) -> list[dict]:
    """Return the lines of a benchmark; none if it has no file."""
    path = folder / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def machine() -> dict[str, str | float]:
    """Describe the processor, the memory, the settings and the versions."""
    import torch  # not for the page

    return {
        "processor": _of_processor("model name") or platform.machine(),
        "model": f"family {_of_processor('cpu family')}, model {_of_processor(MODEL)}",
        "instructions": " ".join(_instructions()),
        "cores": os.cpu_count() or 1,
        "second core": _second_core(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "threads": torch.get_num_threads(),
        "versions": f"Python {platform.python_version()}, " + ", ".join(_versions()),
        "load before": LOAD_BEFORE,
        "load": round(os.getloadavg()[0], 1),
    }


def _second_core(folder: Path = Path("/sys/devices/system/cpu")) -> str:
    """Tell whether the second core shares its arithmetic with the first."""
    try:
        siblings = (folder / "cpu0/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return "not known"
    return "a core of its own" if siblings == "0" else f"a sibling thread (cores {siblings})"


def _of_processor(key: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def _instructions() -> list[str]:
    """Return the names of the instructions that decide which code of oneDNN runs."""
    flags = set(_of_processor("flags").split())
    return [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]


def _versions() -> list[str]:
    found = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions()}
    return [f"{name} {found[name]}" for name in PACKAGES if name in found]


# -- the page ----------------------------------------------------------------------------------


def docstring(path: Path) -> tuple[str, str]:
    """Return the first line of a script's docstring, and its paragraphs without the commands."""
    title, _, rest = (
        ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    ).partition("\n")
    kept = [part for part in rest.strip("\n").split("\n\n") if not part.startswith(" ")]
    return title.rstrip("."), "\n\n".join(kept)


def render(folder: Path = RECORDS) -> str:
    """Return the text of the page."""
    names = sorted(path.stem for path in folder.glob("*.jsonl"))
    names.sort(key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    lines = {name: read(name, folder) for name in names}
    machines = _machines([line for each in lines.values() for line in each])
    parts = [_HEAD, _describe(machines), *_missed(lines)]
    parts += [_section(name, each, machines) for name, each in lines.items() if name not in OTHERS]
    others = [_other(name, lines[name]) for name in OTHERS if name in lines]
    if others:
        parts += ["## Other records", "In `docs/performance`, without a table here:"]
        parts.append("\n".join(others))
    return "\n\n".join(parts) + "\n"


_HEAD = """# Performance

Speeds of sktransfer on one machine. The records in `docs/performance` have a line of JSON for each
case with the values of all rounds; this page and its pictures are made from them. `python -m
benchmarks` lists the benchmarks, `python -m benchmarks NAME --record` replaces the lines of one,
and `python -m benchmarks --all --quick --record` runs all of this page in about ten minutes.

The contestants of a case give equal results, which is asserted first, and run in turns. The tables
have medians over the rounds. A *ratio* compares a contestant with the baseline of the case, round
by round: how many times as fast (images/s), as long (s, ms) or as much (MB), as median and range.
A command with `--cpu-time` measures processor time. *Load* is the load average when the benchmark
ended, itself included: where it is far above the number of cores, times say little. `bfloat16` is
never used unless asked for. `engine="compile"`, and work on GPUs, have not been measured."""


def _machines(lines: list[dict]) -> list[dict]:
    """Return the different machines of some lines; the load does not distinguish them."""
    found: list[dict] = []
    for line in lines:
        known = _without_load(line["machine"])
        if known not in found:
            found.append(known)
    return found


def _without_load(machine: dict) -> dict:
    return {key: value for key, value in machine.items() if not key.startswith("load")}


def _describe(machines: list[dict]) -> str:
    rows = []
    for i, known in enumerate(machines):
        facts = "; ".join(f"{key}: {value}" for key, value in known.items())
        rows.append(f"**Machine {i + 1}.** {facts}.")
    return "\n\n".join(rows)


def _missed(lines: dict[str, list[dict]]) -> list[str]:
    """Return a paragraph that lists the aims that were missed, if any was."""
    rows = [
        f"- `{name}`, {case.name}: {contestant}, {_ratio(case, contestant)}"
        for name, each in lines.items()
        for case in map(_case, each)
        for contestant in case.aims
        if _ratio(case, contestant).endswith("missed")
    ]
    return ["Aims that were missed:", "\n".join(rows)] if rows else []


def _title(name: str) -> tuple[str, str]:
    title, about = docstring(ROOT / "benchmarks" / f"{name}.py")
    title = title.removeprefix("Measure ")
    return title[0].upper() + title[1:], about


def _section(name: str, lines: list[dict], machines: list[dict]) -> str:
    title, about = _title(name)
    commands = sorted({f"`{line['command']}`" for line in lines})
    numbers = {str(machines.index(_without_load(line["machine"])) + 1) for line in lines}
    load = max(line["machine"]["load"] for line in lines)
    ran = f"Machine {', '.join(sorted(numbers))}, load {load}: {', '.join(commands)}."
    picture = f"![{title}](performance/{name}.png)"
    notes: dict[str, list[str]] = {}
    for line in lines:
        notes.setdefault(line["note"], []).append(line["name"])
    told = [f"- {'; '.join(names)}: {note}." for note, names in notes.items() if note]
    parts = [f"## {title}", about, ran, picture, table(list(map(_case, lines))), "\n".join(told)]
    return "\n\n".join(part for part in parts if part)


def _other(name: str, lines: list[dict]) -> str:
    title, _ = _title(name)
    commands = sorted({f"`{line['command']}`" for line in lines})
    return f"- `{name}.jsonl`: {title[0].lower() + title[1:]} ({', '.join(commands)})"


def _case(line: dict) -> Case:
    return Case(**{key: line[key] for key in Case.__dataclass_fields__})


def table(cases: list[Case]) -> str:
    """Return the cases as a table in Markdown.

    It has a row for each contestant, or for each case if nothing is compared.
    """
    contestants = {tuple(case.values) for case in cases}
    if len(contestants) == 1 and not any(case.baseline for case in cases):
        head = ["case", *contestants.pop()]
        rows = [[case.name, *(_median(case, name) for name in head[1:])] for case in cases]
    else:
        head = ["case", "contestant", "median", "ratio"]
        rows = [
            [case.name if i == 0 else "", name, _median(case, name), _ratio(case, name)]
            for case in cases
            for i, name in enumerate(case.values)
        ]
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, *rows]]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _median(case: Case, name: str) -> str:
    """Return the median, with the range where no ratio has one."""
    values = case.values[name]
    spread = f" ({_number(min(values))}–{_number(max(values))})"
    varies = case.baseline is None and len(set(values)) > 1
    return f"{_number(median(values))}{spread if varies else ''} {case.unit}"


def _ratio(case: Case, name: str) -> str:
    """Return the ratio to the baseline with its range, and the aim."""
    if case.baseline is None:
        return ""
    if name == case.baseline:
        return "*baseline*"
    ratios = case.ratios(name)
    spread = f" ({min(ratios):.2f}–{max(ratios):.2f})" if len(set(ratios)) > 1 else ""
    told = f"{median(ratios):.2f}{spread}"
    if name not in case.aims:
        return told
    aim, faster = case.aims[name], case.unit.endswith("/s")
    reached = median(ratios) >= aim if faster else median(ratios) <= aim
    return f"{told}, aim {'≥' if faster else '≤'} {aim:g}{'' if reached else ': missed'}"


def _number(value: float) -> str:
    """Return three digits, without an exponent."""
    if value == 0:
        return "0"
    digits = next((d for d, bound in ((0, 100), (1, 10), (2, 1), (3, 0.1)) if value >= bound), 4)
    return f"{value:,.{digits}f}"


# -- pictures ----------------------------------------------------------------------------------


def draw(name: str, folder: Path = RECORDS) -> None:
    """Draw the cases of a benchmark, a panel each, with bars from the smallest to largest round."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = [_case(line) for line in read(name, folder)]
    columns = min(3, len(cases))
    rows = -(-len(cases) // columns)
    widest = max(len(case.values) for case in cases)
    size = (4.6 * columns, rows * (0.9 + 0.28 * widest))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(cases) :]:
        axis.axis("off")
    for axis, case in zip(axes.flat, cases, strict=False):
        _panel(axis, case)
    figure.savefig(folder / f"{name}.png", dpi=90, metadata={"Software": None})
    plt.close(figure)


def _panel(axis, case: Case) -> None:
    names = list(case.values)[::-1]
    middle = [median(case.values[name]) for name in names]
    below = [m - min(case.values[name]) for m, name in zip(middle, names, strict=True)]
    above = [max(case.values[name]) - m for m, name in zip(middle, names, strict=True)]
    colors = ["0.6" if name == case.baseline else "tab:blue" for name in names]
    axis.barh(names, middle, xerr=(below, above), color=colors, error_kw={"elinewidth": 1})
    axis.set_title(textwrap.fill(case.name, 44), fontsize=9)
    axis.set_xlabel(case.unit, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def write_page() -> None:
    """Write the page and its pictures."""
    for path in sorted(RECORDS.glob("*.jsonl")):
        draw(path.stem)
    PAGE.write_text(render(), encoding="utf-8")
