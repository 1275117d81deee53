"""What MkDocs calls: every page of the site made from what the repository holds.

A link in a file of the repository is followed to the page made of its target; a link to a file that is on no page is
an error, so a build without warnings is a site without dead links.
"""

import os
import posixpath
import re
from pathlib import Path

import features
import gallery
import reference
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
# file of the repository -> page
DOCUMENTS = {
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks/method.md",
    "fastconv/README.md": "inside.md",
    "fastconv/OPS.md": "operations.md",
    "fastconv/data/README.md": "data.md",
    "LICENSE": "licence.md",
}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
DOCUMENTS |= {f"notebooks/{path.name}": f"gallery/{path.stem}.md" for path in NOTEBOOKS}
DOCUMENTS["notebooks"] = "gallery/index.md"
RESULTS = sorted(path.name for path in (ROOT / "benchmarks/results").glob("*.md"))
DOCUMENTS |= {f"benchmarks/results/{name}": f"benchmarks/{name}" for name in RESULTS}


def on_config(config):
    """The navigation: fixed chapters, and in them the pages that there are."""
    config.nav = [
        {"Start": "index.md"},
        {"Operations": [{"Operations": "operations.md"}, {"Networks": "networks.md"}]},
        {"Gallery": ["gallery/index.md", *(f"gallery/{path.stem}.md" for path in NOTEBOOKS)]},
        {"Reference": [{page.title: f"reference/{page.file}"} for page in reference.PAGES]},
        {"Benchmarks": [*(f"benchmarks/{name}" for name in RESULTS), "benchmarks/method.md"]},
        {"Inside": [{"Map of the code": "inside.md"}, {"Data": "data.md"}, {"Licence": "licence.md"}]},
    ]
    return config


def on_files(files, config):
    """All pages and pictures."""
    for name, content in _pages():
        files.append(File.generated(config, name, content=content))
    for picture in sorted((ROOT / "benchmarks/results").glob("*.png")):
        files.append(File.generated(config, f"benchmarks/{picture.name}", abs_src_path=str(picture)))
    return files


def _pages():
    for source, page in DOCUMENTS.items():
        if source.endswith(".md") and source != "fastconv/OPS.md":
            yield page, follow(source, _read(source))
    yield "operations.md", features.operations(reference.places())
    yield "networks.md", features.networks()
    yield "licence.md", f"# Licence\n\n```text\n{_read('LICENSE')}```\n"
    for file, text in reference.pages():
        yield f"reference/{file}", text
    books = [gallery.read(path) for path in NOTEBOOKS]
    yield "gallery/index.md", gallery.index(books)
    for book in books:
        yield f"gallery/{book.stem}.md", follow(f"notebooks/{book.stem}.ipynb", book.text)
        for name, picture in book.pictures:
            yield f"gallery/{name}", picture


def _read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def follow(source, text):
    """The text of a file of the repository with its links to other files turned into links to their pages."""
    here = DOCUMENTS[source]

    def link(match):
        target, mark, anchor = match[2].partition("#")
        if ":" in target or not target:
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if target.endswith(".png"):
            return match[0]  # pictures keep their place beside the page; MkDocs checks that they are there
        if file not in DOCUMENTS:
            raise PluginError(f"{source} links to {target}, which is on no page of the site")
        page = os.path.relpath(DOCUMENTS[file], posixpath.dirname(here) or ".")
        return f"{match[1]}({page}{mark}{anchor})"

    fences = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if part.startswith("```") else re.sub(r"(\[[^\]]*\])\(([^)\s]+)\)", link, part) for part in fences
    )
