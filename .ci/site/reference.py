"""The API reference: pages made from the docstrings of whatever the package exports, so that none can be missing.

Docstrings here are prose with shapes and formulas, not sections of a markup language, and functions are defined in
files of `ops/` that say in their own docstring what all of them share.  So a page is: each such file's docstring, then
its functions with their signatures.  Paragraphs, indented formulas, lists and columns keep their form; names of other
entries become links.
"""

import html
import importlib
import inspect
import re
from functools import cache
from itertools import chain
from typing import NamedTuple


class Page(NamedTuple):
    """One page: the public names of these modules, in the order of the files that define them."""

    file: str
    title: str
    prefix: str
    modules: tuple[str, ...]
    keep: str = ".*"  # of the last part of a defining module's name
    drop: str = "$^"
    flat: bool = False  # without headings and docstrings of the defining files


_CONVOLUTIONS = r".*conv.*|adder|shift|involution|locally_connected|non_local"
_POOLS = r".*pool.*|roi"
PAGES = (
    Page("fastconv.md", "fastconv", "fc.", ("fastconv",), flat=True),
    Page("convolutions.md", "Functions: convolutions", "F.", ("fastconv.functional",), _CONVOLUTIONS),
    Page("pooling.md", "Functions: pooling", "F.", ("fastconv.functional",), _POOLS),
    Page("functions.md", "Functions: all others", "F.", ("fastconv.functional",), drop=f"{_CONVOLUTIONS}|{_POOLS}"),
    Page("layers.md", "Layers", "nn.", ("fastconv.nn",), drop="module|init"),
    Page("module.md", "Modules, initialisers", "nn.", ("fastconv.nn", "fastconv.nn.init"), "module|init"),
    Page("optim.md", "Optimizers, schedules", "optim.", ("fastconv.optim",)),
    Page("models.md", "Networks", "fc.models.", ("fastconv.models",)),
    Page("compiled.md", "Compiled networks, ONNX", "", ("fastconv.infer", "fastconv.onnx", "fastconv.onnx.backend")),
    Page("summary.md", "What a network costs", "", ("fastconv.summary",)),
    Page("training.md", "Data, training, weights", "", ("fastconv.data", "fastconv.training", "fastconv.checkpoint")),
    Page("plot.md", "Pictures, matrix views", "", ("fastconv.plot", "fastconv.views")),
)


def pages():
    """(file, Markdown) of every page."""
    linked = {name: place.replace(".md#", ".html#") for name, place in places().items()}  # raw HTML is not followed
    return [(page.file, _page(page, linked)) for page in PAGES]


def places():
    """Name of an entry -> file#name, the first where several pages have one."""
    found = {}
    for page in PAGES:
        for members in _entries(page).values():
            for name, _ in members:
                found.setdefault(name, f"{page.file}#{name}")
    return found


# ---- what is on a page


@cache
def _entries(page):
    """Defining module -> [(name, object)]."""
    groups = {}
    for module in page.modules:
        for name, entry in _public(importlib.import_module(module)):
            file = _last(entry.__module__)
            if re.fullmatch(page.keep, file) and not re.fullmatch(page.drop, file):
                members = groups.setdefault(entry.__module__, [])
                if all(name != other for other, _ in members):
                    members.append((name, entry))
    if page.flat:
        return {page.modules[0]: sorted(chain(*groups.values()), key=lambda member: member[0])}
    return dict(sorted(groups.items()))


def _public(module):
    """(name, class or function) that a module offers: its `__all__`, or what it and its own files define."""
    names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    for name in names:
        entry = getattr(module, name)
        if inspect.isclass(entry) or inspect.isfunction(entry):
            own = module.__name__ == "fastconv.functional" or entry.__module__.startswith(module.__name__)
            if own and entry.__module__.startswith("fastconv"):
                yield name, entry


def _last(module):
    return module.rpartition(".")[2]


# ---- a page


def _page(page, places):
    groups = _entries(page)
    lines = [f"# {page.title}", ""]
    if page.file == "models.md":
        lines += ["See the [list of all networks](../networks.md) with their sizes and papers.", ""]
    for module, members in groups.items():
        if not page.flat:
            lines += _introduction(module, len(groups) > 1, places)
        for name, entry in members:
            shown = f"{page.prefix or _prefix(page, module)}{name}"
            lines += [f"### {name} {{ #{name} }}", "", *_entry(shown, entry, places), ""]
    return "\n".join(lines)


def _prefix(page, module):
    """What precedes a name that one of several modules offers."""
    offering = max((m for m in page.modules if module.startswith(m)), key=len)
    return f"{offering.removeprefix('fastconv.')}."


def _introduction(module, heading, places):
    """A file's name and docstring."""
    source = inspect.getsourcefile(importlib.import_module(module)).rpartition("fastconv/")[2]
    if heading:
        title = _last(module).strip("_").replace("_", " ").capitalize()
        yield from (f"## {title} {{ #file-{module.replace('.', '-')} }}", "")
    text = prose(inspect.getdoc(importlib.import_module(module)) or "", places)
    yield from (f'<div class="doc"><p><small><code>fastconv/{source}</code></small></p>{text}</div>', "")


def _entry(shown, entry, places):
    lines = ["```python", _signature(shown, entry), "```", "", '<div class="doc">']
    lines.append(prose(inspect.getdoc(entry) or "", places))
    if inspect.isclass(entry):
        lines += _methods(entry, places)
    return [*lines, "</div>"]


def _methods(cls, places):
    """The documented methods and properties that a class or its private bases define."""
    found = {}
    for base in reversed(cls.__mro__):
        if base is cls or (base.__name__.startswith("_") and base.__module__.startswith("fastconv")):
            found.update(vars(base))
    for name, member in found.items():
        function = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "__func__", member))
        text = getattr(function, "__doc__", None)
        if name.startswith("_") or name == "forward" or not text or not inspect.isfunction(function):
            continue
        if not function.__module__.startswith("fastconv"):
            continue  # made by a base of another library
        shown = name if isinstance(member, property) else _signature(name, function, bound=True)
        text = prose(inspect.cleandoc(text), places)
        yield f'<div class="method"><p><code>.{html.escape(shown)}</code></p>{text}</div>'


def _signature(shown, entry, bound=False):
    """A call as it is written: without module paths and addresses, one parameter a line if it is long."""
    try:
        signature = inspect.signature(entry)
    except ValueError:
        return shown
    if bound:
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    text = re.sub(r"<(?:function|class) '?([\w.]+).*?>", r"\1", f"{shown}{signature}")
    text = re.sub(r"\b(?:fastconv|numpy|typing|collections\.abc)(?:\.\w+)*\.(\w+)", r"\1", text)
    if len(text) <= 96 or bound:
        return text
    parts = [re.sub(r"\b(?:fastconv|numpy|typing)(?:\.\w+)*\.(\w+)", r"\1", str(p)) for p in _parameters(signature)]
    return "\n".join([f"{shown}(", *(f"    {part}," for part in parts), ")"])


def _parameters(signature):
    """The parameters, with the marks between them."""
    kinds = [p.kind for p in signature.parameters.values()]
    for i, parameter in enumerate(signature.parameters.values()):
        starts = i == 0 or kinds[i - 1] is not parameter.kind
        if parameter.kind is parameter.KEYWORD_ONLY and starts and parameter.VAR_POSITIONAL not in kinds:
            yield "*"
        yield parameter


# ---- docstrings as HTML


def prose(text, places):
    """A docstring: paragraphs, lists, columns of name and meaning, and what is indented as it stands."""
    blocks = re.split(r"\n\s*\n", text.strip("\n"))
    return "".join(_block(block.rstrip(), places) for block in blocks if block.strip())


def _block(block, places):
    lines = block.split("\n")
    if all(line.startswith("    ") for line in lines):
        return f"<pre><code>{html.escape(inspect.cleandoc(block))}</code></pre>"
    if all(line.startswith(("* ", "  ")) for line in lines):
        items = re.split(r"^\* ", block, flags=re.MULTILINE)[1:]
        return f"<ul>{''.join(f'<li>{_inline(item, places)}</li>' for item in items)}</ul>"
    columns = _columns(lines)
    if columns:
        pairs = (f"<dt><code>{html.escape(term)}</code></dt><dd>{_inline(what, places)}</dd>" for term, what in columns)
        return f"<dl>{''.join(pairs)}</dl>"
    if any(line.startswith(" ") or re.search(r"\S {3,}\S", line) for line in lines):
        return f"<pre><code>{html.escape(block)}</code></pre>"
    return f"<p>{_inline(block, places)}</p>"


def _columns(lines):
    """[(name, meaning)] if all lines are names and, from one column on, their meanings; else nothing."""
    match = re.match(r"(\S+(?: \S+)?) {2,}(?=\S)", lines[0])
    if not match:
        return []
    pairs = []
    for line in lines:
        term, what = line[: match.end()], line[match.end() :]
        if not what or what[0] == " " or (term.strip() and not term.endswith("  ")):
            return []
        if term.strip():
            pairs.append((term.strip(), what))
        elif pairs:
            pairs[-1] = pairs[-1][0], f"{pairs[-1][1]} {what}"
    return pairs


def _inline(text, places):
    """Text with `code` and links to the entries that it names."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(_code(part[1:-1], places) if part.startswith("`") else _words(part, places) for part in parts)


def _code(text, places):
    name = re.sub(r"^(fc|F|nn|fc\.nn|fc\.functional|fastconv)\.", "", text.partition("(")[0])
    shown = f"<code>{html.escape(text)}</code>"
    return f'<a href="{places[name]}">{shown}</a>' if name in places else shown


def _words(text, places):
    """Unmarked words link only where no other word looks like them: with a digit, an underscore or an inner capital."""

    def link(match):
        name = match[0]
        return f'<a href="{places[name]}">{name}</a>' if name in places else name

    return re.sub(r"(?<![\w./])\w+(?:\d|_|[a-z][A-Z])\w*(?![\w(/-])", link, html.escape(text, quote=False))
