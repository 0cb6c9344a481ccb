"""The records of the benchmarks of speed, and the page that is made from them."""

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def performance(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("_performance")
    sys.modules.pop("_performance")


def test_the_page_agrees_with_the_records(performance):
    advice = "run: python -m benchmarks --page"
    assert performance.PAGE.read_text(encoding="utf-8") == performance.render(), advice
    for path in performance.RECORDS.glob("*.jsonl"):
        assert path.with_suffix(".png").is_file() == (path.stem not in performance.OTHERS), advice
        assert (ROOT / "benchmarks" / f"{path.stem}.py").is_file()


def test_a_picture_has_only_the_cases_that_make_its_point(performance, tmp_path):
    values = {"plain loop": [2.0, 4.0], "transform": [4.0, 6.0]}
    shown, also, other = (
        performance.Case(name, "images/s", values, "plain loop")
        for name in ("Lite0, JPEG files", "ResNet-18, JPEG files", "Lite0, arrays")
    )
    pictures = []
    for cases in ([shown, also, other], [shown, also]):
        folder = tmp_path / str(len(cases))
        performance.write("transform", "python", cases, folder)
        performance.draw("transform", folder)
        pictures.append((folder / "transform.png").read_bytes())
    assert pictures[0] == pictures[1]


def test_a_section_has_no_commands_of_the_docstring(performance, tmp_path):
    path = tmp_path / "some.py"
    path.write_text('"""Measure this.\n\n    python some.py [--quick]\n\nIn words.\n"""\n')
    assert performance.docstring(path) == ("Measure this", "In words.")


def test_a_record_replaces_the_lines_of_its_cases_only(performance, tmp_path):
    fast = performance.Case("fast", "images/s", {"loop": [2.0, 4.0], "ours": [4.0, 6.0]}, "loop")
    late = performance.Case("late", "ms", {"ours": [1.0]})
    performance.write("imports", "python", [fast, late], tmp_path)
    again = performance.Case("late", "ms", {"ours": [3.0]}, note="equal")
    performance.write("imports", "python", [again], tmp_path)
    first, second = performance.read("imports", tmp_path)
    assert first["values"] == fast.values
    assert second["values"] == again.values
    page = performance.render(tmp_path)
    assert "| fast | loop | 3.00 images/s | *baseline* |" in page
    assert "|  | ours | 5.00 images/s | 1.75 (1.50–2.00) |" in page
    assert "late: equal." in page


def test_a_recorded_command_names_no_place_on_the_machine(performance):
    given = ["--data", "/srv/data", "--rounds", "3", "--record", "--data=/srv/data", "--quick"]
    found = performance.command("epoch", given)
    assert found == "python benchmarks/epoch.py --rounds 3 --quick"


@pytest.mark.parametrize(
    ("unit", "aim", "words"),
    [
        ("images/s", 2, "| 2.50, aim ≥ 2 |"),
        ("images/s", 3, "| 2.50, aim ≥ 3: missed |"),
        ("ms", 3, "| 2.50, aim ≤ 3 |"),
        ("MB", 2, "| 2.50, aim ≤ 2: missed |"),
    ],
)
def test_an_aim_is_a_bound_on_the_side_that_is_better(performance, unit, aim, words):
    case = performance.Case("case", unit, {"loop": [2.0], "ours": [5.0]}, "loop", {"ours": aim})
    assert words in performance.table([case])


def test_the_page_lists_the_aims_that_were_missed(performance, tmp_path):
    values = {"loop": [2.0], "slow": [3.0], "fast": [1.0]}
    case = performance.Case("times", "ms", values, "loop", {"slow": 1.2, "fast": 1.2})
    performance.write("imports", "python", [case], tmp_path)
    page = performance.render(tmp_path)
    assert "- `imports`, times: slow, 1.50, aim ≤ 1.2: missed" in page
    assert "- `imports`, times: fast" not in page


def test_cases_without_a_baseline_have_a_row_each(performance):
    small = performance.Case("memory", "MB", {"10 files": [1.0, 3.0], "100 files": [4.0]})
    large = performance.Case("disk", "MB", {"10 files": [0.0], "100 files": [5.0]})
    assert performance.table([small, large]).splitlines() == [
        "| case | 10 files | 100 files |",
        "|---|---|---|",
        "| memory | 2.00 (1.00–3.00) MB | 4.00 MB |",
        "| disk | 0 MB | 5.00 MB |",
    ]


def test_records_that_few_ask_for_are_named_without_a_table(performance, tmp_path):
    case = performance.Case("rows", "s", {"ours": [1.0]})
    performance.write("million", "python benchmarks/million.py", [case], tmp_path)
    page = performance.render(tmp_path)
    assert "- `million.jsonl`: " in page
    assert "| rows |" not in page


CONTESTANTS = """
import os

def process(number):
    calls = []
    def run():
        print("this does not disturb")
        calls.append(number)
        return [os.getpid(), len(calls)]
    return run

def failing():
    raise ValueError("no")
"""


@pytest.mark.slow
def test_contestants_run_in_turns_in_processes_of_their_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "contestants.py").write_text(CONTESTANTS)
    processes, made = importlib.import_module("_processes"), importlib.import_module("contestants")
    variants = {name: (made.process, {"number": i}) for i, name in enumerate("ab")}
    times, results = processes.race(variants, 3, time.perf_counter, dict)
    assert {name: len(each) for name, each in times.items()} == {"a": 3, "b": 3}
    assert len({os.getpid(), *(int(pid) for pid, _ in results.values())}) == 3
    assert [n for _, n in results.values()] == [1, 1]
    with pytest.raises(RuntimeError, match="exit code 1"):
        processes.race({"a": (made.failing, {})}, 1, time.perf_counter, dict)


@pytest.mark.slow
def test_the_command_lists_the_benchmarks_with_a_line_each():
    run = [sys.executable, "-m", "benchmarks"]
    listed = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    names = [path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py")]
    assert all(f" {name} " in listed for name in names)
    assert "* imports " in listed


@pytest.mark.slow
def test_loaders_are_compared_in_threads_and_processes(monkeypatch, photos, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    loading = importlib.import_module("loading")
    monkeypatch.setattr(loading, "LOADERS", (1,))
    paths = [str(tmp_path / f"{i}.jpg") for i in range(2)]
    for path, photo in zip(paths, photos, strict=True):
        Image.fromarray(photo).save(path)
    case = loading.scaling("JPEG files", paths, rounds=1)
    assert set(case.values) == {"calling thread", "threads: 1", "processes: 1"}
