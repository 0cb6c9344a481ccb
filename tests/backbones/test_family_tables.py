"""The tables of families in the guide name the networks of the sweeps, each once."""

import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "backbones.md"


def named(heading):
    """Names in the first column of the table below a heading."""
    section = GUIDE.read_text(encoding="utf-8").split(f"### {heading}\n")[1].split("\n#")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    return [
        re.sub("`", "", name).strip().casefold() for row in rows[2:] for name in row[0].split(",")
    ]


def test_families_of_images():
    networks = pytest.importorskip("tests.backbones.image_networks")
    assert sorted(named("Images, `hf:`")) == sorted(networks.FAMILIES)


def test_families_of_texts():
    pytest.importorskip("transformers")
    from tests.backbones.test_sweep_texts import FAMILIES, SENTENCES

    expected = [name.casefold() for name in [*FAMILIES, *SENTENCES]]
    assert sorted(named("Texts, `hf:`")) == sorted(expected)


def test_families_of_timm():
    pytest.importorskip("timm")
    from tests.backbones.test_timm_sizes import FAMILIES

    assert sorted(named("Images, `timm:`")) == sorted(FAMILIES)
