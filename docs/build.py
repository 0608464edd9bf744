"""Builds the documentation as HTML: the pages of docs/ and a reference from the docstrings. `make docs` runs it.

    python docs/build.py build/docs

It needs no network. Whatever is not right ends it with code 1 and says what and where: a warning of Python or of pdoc,
a public name that does not resolve or has no docstring, a link or an anchor that leads nowhere.
"""

import html
import importlib
import inspect
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from types import ModuleType
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from mnprobe.cli.main import COMMANDS

__all__ = ["DOORS", "anchors", "broken", "build", "links", "parse", "reference_url"]

REPOSITORY = Path(__file__).resolve().parent.parent
DOORS = (
    "mnprobe",
    "mnprobe.data",
    "mnprobe.worlds",
    "mnprobe.worlds.tabletop",
    "mnprobe.models",
    "mnprobe.models.viclip",
    "mnprobe.models.arp",
    "mnprobe.models.clip",
    "mnprobe.models.loading",
    "mnprobe.models.untrained",
    "mnprobe.features",
    "mnprobe.probe",
    "mnprobe.training",
    "mnprobe.analysis",
    "mnprobe.analysis.similarity",
    "mnprobe.analysis.statistics",
    "mnprobe.analysis.report",
    "mnprobe.analysis.tables.paper",
    "mnprobe.analysis.diagnostics",
    "mnprobe.core.environment",
    "mnprobe.core.errors",
    "mnprobe.core.provenance",
    "mnprobe.core.rundir",
)
"""Modules of the reference: each page shows the names in the module's `__all__`, wherever they are defined."""

_STYLE = """
:root { color-scheme: light dark; --line: #8885; --ink: #1b1f24; --paper: #fff; --code: #8881; --link: #0b57a4 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --paper: #15181c; --link: #7db4f0 } }
body { max-width: 52rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.55 system-ui, sans-serif;
       color: var(--ink); background: var(--paper) }
a { color: var(--link) } img { max-width: 100%; background: #fff }
pre { overflow-x: auto; padding: .7rem 1rem; border-radius: 6px; background: var(--code) }
code { font: .9em ui-monospace, monospace; background: var(--code) } pre code, a code { background: none }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { text-align: left; vertical-align: top; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line) }
nav { border-bottom: 1px solid var(--line); padding-bottom: .5rem }
"""


def parse(text: str) -> list[Token]:
    """The tokens of a page, inline ones as children; tables as GitHub reads them."""
    return _markdown().parse(text)


def anchors(text: str) -> list[str]:
    """The anchors of a page's headings as GitHub makes them, in order.

    >>> anchors("# What `e` is\\n## 2. Ties, and chance\\n## Ties\\n## Ties")
    ['what-e-is', '2-ties-and-chance', 'ties', 'ties-1']
    """
    return [slug for _, slug in _headings(parse(text))]


def links(text: str) -> list[str]:
    """Where the links and images of a page lead, as written.

    >>> links("[a](b.md#c) ![d](e.png) `[not](this)`")
    ['b.md#c', 'e.png']
    """
    found = []
    for token in _walk(parse(text)):
        target = token.attrGet("href") or token.attrGet("src")
        if target:
            found.append(str(target))
    return found


def broken(page: Path) -> list[str]:
    """Links of a Markdown file that lead nowhere: a file that is absent, a heading that its page does not have."""
    text = page.read_text(encoding="utf-8")
    wrong = []
    for link in links(text):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = page if not place else page.parent / unquote(place)
        if not target.exists():
            wrong.append(f"{link}: there is no {os.path.relpath(target, page.parent)}")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8")):
            wrong.append(f"{link}: {target.name} has no heading of this anchor")
    return wrong


def reference_url(name: str) -> str | None:
    """Where a dotted name stands in the reference, such as mnprobe/probe.html#align; None where it does not."""
    door = max((one for one in DOORS if name == one or name.startswith(f"{one}.")), key=len, default=None)
    if door is None:
        return None
    page = f"{door.replace('.', '/')}.html"
    rest = name.removeprefix(door).lstrip(".")
    if not rest:
        return page
    module = importlib.import_module(door)
    known = getattr(module, "__all__", ())
    first, *members = rest.split(".")
    found = getattr(module, first, None) if first in known else None
    for member in members:
        found = getattr(found, member, None)
    return None if found is None else f"{page}#{rest}"


def build(target: Path) -> None:
    """Write the whole site to `target`, which is replaced when all is made.

    Raises SystemExit with what is wrong.
    """
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    wrong = [f"{page.relative_to(REPOSITORY)}: {text}" for page in pages for text in broken(page)]
    if wrong:
        raise SystemExit("\n".join(wrong))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".docs-") as folder:
        made = Path(folder) / "site"
        _reference(made / "reference")
        for page in pages:
            _page(page, made)
        first = "docs/README.html"
        front = f'<!doctype html><meta http-equiv="refresh" content="0; url={first}"><a href="{first}">docs</a>\n'
        (made / "index.html").write_text(front, encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)


def _reference(folder: Path) -> None:
    """The reference by pdoc; everything is imported before, since pdoc forbids imports to start processes."""
    modules = [importlib.import_module(name) for name in DOORS]
    missing = [text for module in modules for text in _undocumented(module)]
    if missing:
        raise SystemExit("\n".join(missing))
    import pdoc
    import pdoc.extract
    import pdoc.render

    from mnprobe import __version__

    every = pdoc.extract.iter_modules2
    # A function that is named as its module (mnprobe.probe.align) is shown as the function, not as a module of its own.
    pdoc.extract.iter_modules2 = lambda module: {n: info for n, info in every(module).items() if info.name in DOORS}
    pdoc.render.configure(docformat="google", show_source=True, footer_text=f"mnprobe {__version__}")
    named = [name for name in DOORS if not name.startswith("mnprobe.models.")]  # mnprobe.models brings its own along
    pdoc.pdoc(*named, output_directory=folder)
    absent = [url for name in DOORS for url in _promised(name) if not _has(folder, url)]
    if absent:
        raise SystemExit("\n".join(f"the reference lacks {url}" for url in absent))


def _promised(door: str) -> Iterator[str]:
    for name in ["", *getattr(importlib.import_module(door), "__all__", ())]:
        yield reference_url(f"{door}.{name}".rstrip(".")) or f"{door}.{name}"


def _has(folder: Path, url: str) -> bool:
    page, _, anchor = url.partition("#")
    file = folder / page
    return file.is_file() and (not anchor or f'id="{anchor}"' in file.read_text(encoding="utf-8"))


def _undocumented(module: ModuleType) -> Iterator[str]:
    if not inspect.getdoc(module):
        yield f"{module.__name__} has no docstring"
    for name in getattr(module, "__all__", ()):
        found = getattr(module, name, None)
        if found is None:
            yield f"{module.__name__}.{name} is in __all__ but not there"
            continue
        setattr(module, name, found)  # names that are imported when asked for
        if (inspect.isclass(found) or inspect.isfunction(found)) and not inspect.getdoc(found):
            yield f"{module.__name__}.{name} has no docstring"


def _page(page: Path, site: Path) -> None:
    """One page of prose, with the files that it links to beside it."""
    text = page.read_text(encoding="utf-8")
    place = page.relative_to(REPOSITORY)
    up = "../" * (len(place.parts) - 1)
    tokens = parse(text)
    for token, slug in _headings(tokens):
        token.attrSet("id", slug)
    for token in list(_walk(tokens)):
        for attribute in ("href", "src"):
            link = str(token.attrGet(attribute) or "")
            if link and not re.match(r"[a-z]+:", link):
                token.attrSet(attribute, _carried(link, page, site))
        if token.children:
            token.children = list(_linked(token.children, up))
    body = _markdown().renderer.render(tokens, _markdown().options, {})
    title = next((token.children for token in tokens if token.type == "inline" and token.children), [])
    head = html.escape("".join(token.content for token in title) or place.stem)
    colours = HtmlFormatter().get_style_defs("pre")
    target = site / place.with_suffix(".html")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{head} (mnprobe)</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}'
        f"@media (prefers-color-scheme: light) {{ {colours} }}</style></head><body>"
        f'<nav><a href="{up}docs/README.html">mnprobe docs</a> | '
        f'<a href="{up}reference/mnprobe.html">reference</a></nav>'
        f"<main>{body}</main></body></html>\n",
        encoding="utf-8",
    )


def _carried(link: str, page: Path, site: Path) -> str:
    """The link as it is in the site; a file that is not a page of it is copied there."""
    place, mark, anchor = link.partition("#")
    if not place:
        return link
    target = (page.parent / unquote(place)).resolve()
    inside = target.relative_to(REPOSITORY)
    if target.suffix == ".md" and (target.parent == REPOSITORY / "docs" or inside == Path("README.md")):
        return str(PurePosixPath(place).with_suffix(".html")) + mark + anchor
    if target.is_file():
        (site / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(target, site / inside)
    return link


def _linked(children: list[Token], up: str) -> Iterator[Token]:
    """Inline code that names a command, or something of the reference, becomes a link to it, unless it is in one."""
    depth = 0
    for token in children:
        depth += token.nesting if token.type in ("link_open", "link_close") else 0
        url = _meant(token.content) if token.type == "code_inline" and not depth else None
        if url is None:
            yield token
            continue
        yield Token("link_open", "a", 1, attrs={"href": up + url})
        yield token
        yield Token("link_close", "a", -1)


def _meant(code: str) -> str | None:
    """Where a piece of inline code is explained: `mnprobe align`, `mnprobe.probe.align`, `mnprobe.probe.align(...)`."""
    command = re.match(r"mnprobe (\w+)", code)
    if command:
        return f"docs/cli.html#mnprobe-{command.group(1)}" if command.group(1) in COMMANDS else None
    name = re.fullmatch(r"(mnprobe(?:\.\w+)+)(?:\(.*\))?", code)
    url = reference_url(name.group(1)) if name else None
    return url and f"reference/{url}"


def _headings(tokens: list[Token]) -> Iterator[tuple[Token, str]]:
    taken: dict[str, int] = {}
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            words = "".join(token.content for token in inline.children or ())
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            count = taken.get(slug, 0)
            taken[slug] = count + 1
            yield opening, f"{slug}-{count}" if count else slug


def _walk(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from _walk(token.children or [])


def _markdown() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "highlight": _coloured}).enable("table")
    assert isinstance(made.renderer, RendererHTML)
    return made


def _coloured(code: str, language: str, _attributes: object) -> str:
    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        return html.escape(code)
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True)))


def _main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise SystemExit("usage: python docs/build.py FOLDER")
    warnings.simplefilter("error")
    target = Path(arguments[0])
    build(target)
    count = len(list(target.rglob("*.html")))
    print(f"wrote {count} pages; open {target / 'index.html'}")


if __name__ == "__main__":
    _main(sys.argv[1:])
