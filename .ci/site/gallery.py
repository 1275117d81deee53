"""The gallery: committed notebooks as pages, with the outputs and pictures that they were committed with."""

import base64
import json
import re
from typing import NamedTuple

from latex2mathml.converter import convert


class Notebook(NamedTuple):
    """A notebook as a page: its Markdown, and its pictures as (file name, bytes)."""

    stem: str
    title: str
    lead: str
    text: str
    pictures: list[tuple[str, bytes]]


def read(path):
    """The page of a notebook; ValueError if it was not run to its end, or failed."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    pictures, parts = [], []
    for number, cell in enumerate(cells, 1):
        source = "".join(cell["source"]).rstrip()
        if cell["cell_type"] == "markdown":
            parts.append(_formulas(source))
        elif cell["cell_type"] == "code" and source:
            if cell["execution_count"] is None:
                raise ValueError(f"{path.name}: cell {number} was not run before the notebook was committed")
            parts.append(f"```python\n{source}\n```")
            parts += [_output(path, output, pictures) for output in _joined(cell["outputs"])]
    text = "\n\n".join(part for part in parts if part) + "\n"
    title = re.search(r"^# (?:\d+\. *)?(.+)$", text, re.MULTILINE)
    if not title or not pictures:
        raise ValueError(f"{path.name}: a notebook of the gallery has a title and at least one picture")
    name = f"{int(path.stem[:2])}. {title[1]}"  # all pages bear the number of their file
    text = f"# {name}{text[title.end() :]}"
    lead = next(p for p in re.split(r"\n\s*\n", text)[1:] if p.strip() and not p.lstrip().startswith("#"))
    return Notebook(path.stem, name, " ".join(lead.split()), text, pictures)


def _formulas(text):
    """Markdown with its formulas, $...$ and $$...$$, as MathML, which browsers show without a script."""
    parts = re.split(r"(`[^`]+`|\$\$.+?\$\$|(?<![\\$\w])\$[^$\n]+(?:\n[^$\n]+)?\$(?!\d))", text, flags=re.DOTALL)
    for i, part in enumerate(parts):
        if part.startswith("$$"):
            parts[i] = convert(part.strip("$").strip(), display="block")
        elif part.startswith("$") and part.endswith("$") and len(part) > 1:
            parts[i] = f"<span>{convert(part.strip('$'))}</span>"  # at the start of a line it would be a block
    return "".join(parts)


def _joined(outputs):
    """Outputs with what was printed in a row as one."""
    found = []
    for output in outputs:
        if output["output_type"] == "stream" and output["name"] != "stdout":
            continue
        if found and output["output_type"] == found[-1]["output_type"] == "stream":
            found[-1] = found[-1] | {"text": [*found[-1]["text"], *output["text"]]}
        else:
            found.append(output)
    return found


def _output(path, output, pictures):
    """What a cell gave, as Markdown: a picture, a table in HTML, or text."""
    kind = output["output_type"]
    if kind == "error":
        raise ValueError(f"{path.name}: a cell ended in {output['ename']}: {output['evalue']}")
    if kind == "stream":
        return _printed(output["text"])
    data = output["data"]
    if "image/png" in data:
        name = f"{path.stem}-{len(pictures) + 1}.png"
        pictures.append((name, base64.b64decode("".join(data["image/png"]))))
        return f"[![picture {len(pictures)}]({name})]({name})"  # a click shows it in full size
    if "text/html" in data:
        return f"<div>{''.join(data['text/html'])}</div>"
    if "text/markdown" in data:
        return "".join(data["text/markdown"])
    return _printed(data["text/plain"])


def _printed(text):
    """Printed lines as a terminal leaves them: without colours, and only the last state of a line drawn anew."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", "".join(text))
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.rstrip("\n").split("\n")]
    body = "\n".join(lines)
    return f'<div class="printed" markdown>\n\n```text\n{body}\n```\n\n</div>' if body.strip() else ""


def index(notebooks):
    """The page of all notebooks, each with its first picture."""
    lines = [
        "# Gallery",
        "",
        "One idea of convolution design a notebook, reproduced and measured; shown with the outputs that they were",
        'committed with. To run them: `pip install -e ".[notebooks]" && jupyter lab notebooks`.',
        "",
        '<div class="cards" markdown>',
    ]
    for book in notebooks:
        picture = book.pictures[0][0]
        lines += ["", '<div markdown="1">', "", f"[![{book.title}]({picture})]({book.stem}.md)", ""]
        lines += [f"**[{book.title}]({book.stem}.md)**", "", book.lead, "", "</div>"]
    return "\n".join([*lines, "", "</div>", ""])
