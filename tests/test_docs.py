"""The pages of the documentation: their links, and the commands of README.md."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub makes them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_and_pictures_exist(page):
    for link in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name(page)}: {link}"


@pytest.mark.parametrize("command", ["demo", "tests"])
def test_readme_marks_the_commands_that_continuous_integration_runs(command):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    marked = re.findall(rf"<!-- command: {command} -->\n```sh\n(.+)\n```", text)
    assert len(marked) == 1
    assert "pip install" in marked[0]
    assert f"fresh {command}" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_page_of_the_guide_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [
        page.name
        for page in ROOT.glob("docs/guide/*.md")
        if f"({page.parent.name}/{page.name})" not in index
    ] == []
