"""The documents of a release agree with each other."""

import configparser
import re
from pathlib import Path

import sktransfer

ROOT = Path(__file__).resolve().parents[1]


def test_the_version_is_the_same_everywhere():
    metadata = configparser.ConfigParser(interpolation=None)
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    version = metadata["metadata"]["version"]
    assert sktransfer.__version__ == version
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == version


def test_the_changelog_begins_with_the_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", text, re.MULTILINE)[1] == sktransfer.__version__
