"""Every link, picture, script and style sheet of the built site leads to something that is there.

python .ci/site/links.py [folder]: prints what does not, and fails.  MkDocs checks the links that it makes from
Markdown; this reads the pages as they are.  Pages may link to other sites but fetch nothing from them.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, and what it refers to as (address, whether it is fetched with the page)."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.refers = {""}, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs.get("id"), attrs.get("name")}
        fetched = tag != "a" and attrs.get("rel") not in ("canonical", "prev", "next")
        self.refers += [(attrs[key], fetched) for key in ("href", "src") if attrs.get(key)]


def problems(root):
    """(page, address, what is wrong) of every reference that leads nowhere."""
    pages = {path.resolve(): Page(path) for path in sorted(root.rglob("*.html"))}
    for path, page in pages.items():
        for address, fetched in page.refers:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if fetched and parts.scheme != "data":
                    yield path, address, "fetched from elsewhere"
                continue
            base = root if parts.path.startswith("/") else path.parent
            target = (base / unquote(parts.path.lstrip("/"))).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                yield path, address, "no such file"
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield path, address, "no such place on the page"


def main(folder):
    root = Path(folder)
    found = list(problems(root))
    for path, address, what in found:
        print(f"{path.relative_to(root.resolve())}: {address}: {what}")
    count = len(list(root.rglob("*.html")))
    print(f"{count} pages, {len(found)} dead links")
    return 1 if found or not count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "build"))
