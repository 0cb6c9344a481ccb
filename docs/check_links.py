"""Check the links inside a built site: every page, file and section that is linked is there.

    python docs/check_links.py FOLDER

Links to other sites are not followed.
"""

import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LINKS = {"a": "href", "img": "src", "link": "href", "script": "src"}


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if values.get(LINKS.get(tag, "")):
            self.links.append(values[LINKS[tag]])


read = cache(Page)


def problem(page: Path, link: str) -> str | None:
    """Say what is wrong with a link of a page, or None."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or parts.query:
        return None
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target.is_dir():
        target /= "index.html"
    if not target.exists():
        return "no such file"
    if (
        parts.fragment
        and target.suffix == ".html"
        and unquote(parts.fragment) not in read(target).anchors
    ):
        return "no such section"
    return None


def main() -> None:
    pages = sorted(Path(sys.argv[1]).resolve().rglob("*.html"))
    links = [(page, link) for page in pages for link in read(page).links]
    wrong = [(page, link, found) for page, link in links if (found := problem(page, link))]
    for page, link, found in wrong:
        print(f"{page.name}: {link}: {found}")
    print(f"{len(pages)} pages, {len(links)} links, {len(wrong)} wrong")
    sys.exit(bool(wrong) or not pages)


if __name__ == "__main__":
    main()
