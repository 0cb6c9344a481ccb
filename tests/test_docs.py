import importlib
import re
from pathlib import Path

import pytest

import sktransfer

DOCS = Path(__file__).resolve().parents[1] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("plot_*.py"))


def listed():
    """The names on the page of the reference, by module."""
    names, module = {}, None
    for line in (DOCS / "api.md").read_text(encoding="utf-8").splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.split()[-1]
        elif re.fullmatch(r"   \w+", line):
            names.setdefault(module, []).append(line.strip())
    return names


def test_the_reference_has_every_public_name_once():
    assert sorted(listed()["sktransfer"]) == sktransfer.__all__


@pytest.mark.parametrize("module", sorted(listed()))
def test_the_names_of_the_reference_exist(module):
    found = importlib.import_module(module)
    assert [name for name in listed()[module] if not hasattr(found, name)] == []


def test_the_gallery_has_an_example_for_each_number():
    numbers = [int(path.stem.split("_")[1]) for path in EXAMPLES]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 15


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_what_it_shows_and_draws_something(path):
    text = path.read_text(encoding="utf-8")
    title, line, *_ = text.removeprefix('"""\n').splitlines()
    assert line == "=" * len(title)
    assert "# %%" in text
