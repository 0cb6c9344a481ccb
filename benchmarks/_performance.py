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
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
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
    "million",
    "imports",
    "files",
    "memory",
    "loading",
    "service",
    "cluster_speed",
)
# Named at the end of the page, with their records and no table.
OTHERS = (
    "million",
    "store_check",
    "cluster_kills",
    "cluster_memory",
    "cluster_scaling",
    "cluster_search",
)
# These cases are in the records only: they repeat others, or few ask for them.
UNTABLED = ("*, against *", "get in processes*", "*, processor time*")
# The cases in the picture of a benchmark, which makes one point; without an entry, all.
DRAWN = {
    "transform": ["*, JPEG files"],
    "peers": ["ResNet-18, JPEG files"],
    "single": ["*features and LogisticRegression", "fine-tuned*", "direct use", "minilm*"],
    "grid_search": ["paths*"],
    "store": ["get"],
    "imports": ["imports"],
    "files": ["*last stage trained"],
    "memory": ["*above the output"],
    "loading": ["*JPEG files, 1 threads of torch"],
    "service": ["uploads"],
    "cluster_speed": ["20,000 images"],
}
UNDRAWN = ("the pipeline without the network",)  # a part of a prediction, in the table only
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

Speeds of sktransfer. The records in `docs/performance` have a line of JSON for each case with the
machine and the values of all rounds; this page and its pictures show most of them. `python -m
benchmarks` lists the benchmarks, `python -m benchmarks NAME --record` replaces the lines of one,
and `python -m benchmarks --all --quick --record` runs all of this page in about half an hour.

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
    lines = [line for line in lines if not _fits(line["name"], UNTABLED)] or lines
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


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


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
    """Draw the cases of a benchmark that make its point, with lines from least to largest round.

    Several cases with a baseline are drawn as ratios to it, on one axis; others as they are.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = [_case(line) for line in read(name, folder)]
    cases = [case for case in cases if _fits(case.name, DRAWN.get(name, ["*"]))] or cases
    relative = len(cases) > 1 and cases[0].baseline is not None
    groups = {case.name: _bars(case, relative) for case in cases}
    if all(len(bars) == 1 for bars in groups.values()):  # the case says it all
        groups = {"": {case: values for case, bars in groups.items() for values in bars.values()}}
    n_rows = sum(map(len, groups.values())) + (len(groups) if len(groups) > 1 else 0)
    figure, axis = plt.subplots(figsize=(7, 0.8 + 0.27 * n_rows), layout="constrained")
    row, ticks = 0, {}
    for group, bars in groups.items():
        if len(groups) > 1:
            place = axis.get_yaxis_transform()
            style = {"weight": "bold", "bbox": {"color": "white", "pad": 1}}
            axis.text(0.01, row, group, transform=place, va="center", fontsize=9, **style)
            row += 1
        for contestant, values in bars.items():
            color = "0.6" if contestant == cases[0].baseline else "tab:blue"
            axis.barh(row, median(values), height=0.75, color=color)
            axis.hlines(row, min(values), max(values), color="black", linewidth=1)
            end = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
            axis.annotate(_number(median(values)), (max(values), row), **end)
            ticks[row] = contestant
            row += 1
    axis.set_yticks(list(ticks), list(ticks.values()), fontsize=9)
    axis.set(ylim=(row - 0.4, -0.6), xlabel=_axis_label(cases[0], relative))
    axis.margins(x=0.16)
    axis.xaxis.set_major_formatter("{x:,.9g}")
    axis.spines[["top", "right"]].set_visible(False)
    if relative:
        axis.axvline(1, color="0.4", linestyle="--", linewidth=1)
    figure.savefig(folder / f"{name}.png", dpi=90, metadata={"Software": None})
    plt.close(figure)


def _bars(case: Case, relative: bool) -> dict[str, list[float]]:
    """Return what is drawn of the contestants of a case."""
    if not relative:
        return case.values
    kept = [each for each in case.values if each not in (case.baseline, *UNDRAWN)]
    return {each: case.ratios(each) for each in kept}


def _axis_label(case: Case, relative: bool) -> str:
    if not relative:
        return case.unit
    kind = "fast" if case.unit.endswith("/s") else {"MB": "much"}.get(case.unit, "long")
    return f"times as {kind} as: {case.baseline} (dashed)"


def write_page() -> None:
    """Write the page and its pictures."""
    for path in sorted(RECORDS.glob("*.jsonl")):
        if path.stem not in OTHERS:
            draw(path.stem)
    PAGE.write_text(render(), encoding="utf-8")
