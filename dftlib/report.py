"""Turns a folder of executed notebooks into pages that any browser shows from the disk, without a network.

    python -m dftlib.report build/demo --out build/demo-pages

Each NN_name.ipynb becomes NN_name.html, its figures inside and its equations as MathML; index.html leads to them and says
which notebooks stopped, were not executed, or are missing. Left out are widgets, which need a kernel, and what was written
to stderr. The same notebooks give the same bytes. A second call replaces the pages of the first.
Exit status: 0 done, 2 nothing can be done.
"""

import re
import sys
import tempfile
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
from bs4 import BeautifulSoup, Tag
from jinja2 import Environment, StrictUndefined, pass_context
from jinja2.runtime import Context
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from PIL import Image
from pygments.formatters import HtmlFormatter

from dftlib import command
from dftlib.config import ROOT, DataError
from dftlib.progress import tqdm

SOURCES = ROOT / "notebooks"
NAMES = "[0-9][0-9]_*.ipynb"
MARK = 'content="dftlib.report" name="generator"'  # in every page: these may be replaced
WIDGET = "application/vnd.jupyter.widget-view+json"
BESIDE = {"injected-parameters", "papermill-error-cell-tag"}  # tags of cells that say nothing of a notebook's version
THUMBNAIL = 640, 480  # pixels at most: twice what the index shows, for fine screens
SETTING = re.compile(r"^(profile|images|\w*datasets?|attribute_data)\b[^=\n]*= *[\"']?(.*?)[\"']? *(?:#.*)?$", re.MULTILINE)
REAL = re.compile(r"lfw|celeba|muct")
HEADING = ["h1", "h2", "h3", "h4"]
SIGNS = {"PASS": "✓", "FAIL": "✗", "SKIP": "–"}  # what the checks of a notebook print

STYLE = """
:root { --ink: #1b1f24; --paper: #fff; --soft: #f4f6f8; --line: #d5dae0; --link: #005a9c; --bad: #a63c00; color-scheme: light }
@media screen and (prefers-color-scheme: dark) { :root {
  --ink: #e3e6ea; --paper: #15181c; --soft: #20252b; --line: #3c444d; --link: #7cc0ff; --bad: #ff9d5c; color-scheme: dark } }
body { max-width: 64rem; margin: 0 auto; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; overflow-wrap: break-word }
a { color: var(--link) }
h1, h2, h3 { line-height: 1.25; break-after: avoid }
h1 { font-size: 1.7rem }
h2 { margin-top: 2.5rem }
nav { display: flex; justify-content: space-between; gap: 1rem; padding: .7rem 0; border-bottom: 1px solid var(--line) }
nav > * { flex: 1 } nav > :nth-child(2) { flex: none } nav > :last-child { text-align: right }
footer nav { margin-top: 3rem; border: 0; border-top: 1px solid var(--line) }
.anchor-link { visibility: hidden; padding-left: .4em; text-decoration: none } :hover > .anchor-link { visibility: visible }
pre, code { font: .86rem/1.45 ui-monospace, Consolas, "DejaVu Sans Mono", monospace }
:not(pre) > code { background: var(--soft); padding: .1em .3em; border-radius: .2em }
pre { margin: 0; overflow-x: auto }
.input_area, .rendered_html pre { padding: .6rem .8rem; background: var(--soft); border-left: 3px solid var(--line) }
.input_area .highlight { background: none }
.cell { margin: 1rem 0 }
.celltag_injected-parameters pre { columns: 21rem }
.output_area { margin: .6rem 0; overflow-x: auto }
.output_error { padding-left: .8rem; border-left: 3px solid var(--bad) }
img { max-width: 100%; height: auto; background: #fff }
.output_png { text-align: center; break-inside: avoid }
table { border: 0; border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; border: 0; border-bottom: 1px solid var(--line) }
.dataframe td { text-align: right }
tr { break-inside: avoid }
math { font-family: "STIX Two Math", "Cambria Math", "Latin Modern Math", "DejaVu Math TeX Gyre", math }
math[display=block] { margin: 1rem 0; overflow-x: auto; overflow-y: hidden }
.bad { color: var(--bad); font-weight: 600 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem } dd { margin: 0 }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: 1rem }
article { padding: 1rem; border: 1px solid var(--line); border-radius: .4rem; break-inside: avoid }
article h2 { margin: 0; font-size: 1.05rem } article p { margin: .5rem 0; font-size: .9rem }
article img { width: 100%; height: 10rem; margin-bottom: .6rem; object-fit: contain }
@media print { body { max-width: none; padding: 0; font-size: 10pt } nav, .anchor-link { display: none }
  pre { white-space: pre-wrap } .output_area, math { overflow: visible }
  table { font-size: 6.5pt } th, td { padding: .2rem .3rem }
  .cards { grid-template-columns: repeat(3, minmax(0, 1fr)) } article img { height: 7rem } }
""" + "\n".join(
    f"@media {media} {{ {HtmlFormatter(style=style).get_style_defs('.highlight')} }}"
    for media, style in (
        ("print, (prefers-color-scheme: light)", "default"),
        ("screen and (prefers-color-scheme: dark)", "github-dark"),
    )
)

# The policy keeps every page off the network and its scripts dead, whatever a notebook's outputs hold.
HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta {{ resources.mark | safe }}>
<title>{{ resources.title | e }}</title>
<style>{{ resources.style | safe }}</style>
</head>
<body>
"""

PAGE = (
    """{%- extends 'classic/base.html.j2' -%}
{%- block header -%}"""
    + HEAD
    + """<header>{{ self.nav() }}
{% if resources.status %}<p class="bad">✗ {{ resources.status | e }}</p>{% endif %}
</header>
<main>
{%- endblock -%}
{%- block data_png scoped -%}
{{ super() | replace('<img', '<img alt="%s"' % (cell.metadata.heading | e)) }}
{%- endblock -%}
{%- block footer -%}
</main>
<footer>
{%- block nav -%}
<nav aria-label="Notebooks">
{% for name, label in resources.around -%}
<span>{% if name %}<a href="{{ name | urlencode }}.html">{{ label | e }}</a>{% endif %}</span>
{% endfor -%}
</nav>
{%- endblock -%}
</footer>
</body>
</html>
{% endblock -%}
"""
)

INDEX = (
    HEAD
    + """<header>
<h1>{{ resources.title }}</h1>
{% if real %}<p class="bad">Pages of a run on real pictures may show faces: don't publish them.</p>{% endif %}
{% if missing %}<p class="bad">✗ Missing: {{ missing | join(", ") }}:
run <code>make reproduce</code> with the same PROFILE.</p>{% endif %}
</header>
<main>
<dl>
{% for name, value in facts.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}</dl>
<div class="cards">
{% for page in pages %}{% set href = page.name | urlencode ~ ".html" %}<article>
{% if page.figure %}<a href="{{ href }}"><img src="{{ page.figure }}" alt="{{ page.heading }}"></a>{% endif %}
<h2>{{ page.name[:2] }} · <a href="{{ href }}">{{ page.title }}</a></h2>
{% if page.status %}<p class="bad">✗ {{ page.status }}</p>{% endif %}
<p>{{ page.summary }}</p>
<p>Checks: {{ tally(page.checks) }}</p>
</article>
{% endfor %}</div>
</main>
</body>
</html>
"""
)


class Prose(IPythonRenderer):
    """Markdown to HTML: LaTeX becomes MathML, and what names a notebook of `pages` (names without .ipynb) leads to its page."""

    def __init__(self, pages: list[str], **options: Any) -> None:
        super().__init__(**options)
        self.pages = pages

    def inline_math(self, body: str) -> str:
        return self._mathml(body, "inline")

    def block_math(self, body: str) -> str:
        return self._mathml(re.sub(r"\\(min|max)_", r"\\\1\\limits_", body), "block")

    def _mathml(self, latex: str, display: str) -> str:
        try:  # latex2mathml would draw \lVert as high as the line, and put space between max and its bracket
            made = convert(re.sub(r"\\[lr]Vert\b", r"\\|", latex), display=display)
        except Exception:  # its errors have no class of their own in common
            return super().codespan(latex)
        return re.sub("<mo>(min|max)</mo>", r"<mi>\1</mi>", made)

    def text(self, text: str) -> str:
        """Text, each number in 'notebook 03' or 'notebooks 08 and 09' a link."""
        numbers = {page[:2]: self.link(page[:2], f"{page}.ipynb") for page in self.pages}
        return re.sub(
            r"\b[Nn]otebooks? \d\d\b(?:(?:, | and | to )\d\d\b)*",
            lambda said: re.sub(r"\d\d", lambda number: numbers.get(number[0], number[0]), said[0]),
            super().text(text),
        )

    def codespan(self, text: str) -> str:
        return self.link(super().codespan(text), text) if self._target(text) else super().codespan(text)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link to a page, a place in one, or the web; what else it may lead to isn't part of the site, so its text alone."""
        text = re.sub(r"</?a\b[^>]*>", "", text)
        page = self._target(url)
        return super().link(text, page or url, title) if page or urlsplit(url).scheme or url.startswith("#") else text

    def _target(self, url: str) -> str:
        path, hash_, place = url.partition("#")
        name = Path(path).name.removesuffix(".ipynb")
        return f"{name}.html{hash_}{place}" if path.endswith(".ipynb") and name in self.pages else ""


@dataclass(frozen=True)
class Page:
    """A notebook as its page shows it, and what the index says of it."""

    name: str
    notebook: NotebookNode
    executed: bool
    title: str
    summary: str
    status: str  # what is wrong with it; mostly empty
    checks: Counter[str]  # lines that begin with PASS, FAIL and SKIP
    figure: str  # the first one, small, as a data URL; empty where there is none
    heading: str  # what it is under
    settings: dict[str, str]  # literals of the parameters that `SETTING` finds

    @property
    def label(self) -> str:
        return f"{self.name[:2]} · {self.title}"


def read_page(path: Path) -> Page:
    """What `path` holds, less what a page doesn't show; a file that can't be read as a notebook raises `DataError`."""
    try:
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        return _page(path, notebook)
    except Exception as error:  # of the disk, of JSON, of the schema, of a figure
        said = " ".join(str(error).split())[:100]
        raise DataError(f"{path} can't be read as a notebook ({said}): run it again, or take it out of the folder.") from error


def _page(path: Path, notebook: NotebookNode) -> Page:
    executed, status = _status(path, notebook)
    heading, figures, said = "", [], ""
    for i, cell in enumerate(notebook.cells):
        cell.id = str(i)  # papermill gives its own cells random ones
        if cell.cell_type == "markdown" and (headings := _soup(cell.source).find_all(HEADING)):
            heading = _plain(headings[-1])
        cell.metadata.heading = heading
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" and WIDGET not in o.get("data", {})]
            figures += [(o.data["image/png"], heading) for o in cell.outputs if "image/png" in o.get("data", {})]
            said += "".join(f"{o.get('text') or o.get('evalue', '')}\n" for o in cell.outputs)
    prose = _soup("\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown"))
    title = prose.find(HEADING)
    summary = (title or prose).find_next("p")
    parameters = "\n".join(cell.source for cell in notebook.cells if {"parameters", "injected-parameters"} & _tags(cell))
    return Page(
        name=path.stem,
        notebook=notebook,
        executed=executed,
        title=re.sub(r"^\d+ · ", "", _plain(title)) if title else path.stem,
        summary=_plain(summary) if summary else "",
        status=status,
        checks=Counter(re.findall("^(PASS|FAIL|SKIP) ", said, re.MULTILINE)),
        figure=_thumbnail(figures[0][0]) if figures else "",
        heading=figures[0][1] if figures else "",
        settings=dict(SETTING.findall(parameters)),
    )


def _status(path: Path, notebook: NotebookNode) -> tuple[bool, str]:
    """Whether any of it was executed, and what is wrong with that."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    executed = [cell for cell in code if cell.execution_count]
    if errors := [o.ename for cell in code for o in cell.outputs if o.output_type == "error"]:
        return True, f"stopped with an error: {errors[0]}"
    if len(executed) < len(code):
        return bool(executed), "not executed to its end" if executed else "not executed"
    source = SOURCES / path.name
    if source.is_file() and _sources(nbformat.read(source, 4)) != _sources(notebook):
        return True, f"made from another version of notebooks/{path.name}"
    return True, ""


def _sources(notebook: NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if not BESIDE & _tags(cell)]


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _html(markdown: str, pages: list[str], **options: Any) -> str:
    return MarkdownWithMath(renderer=Prose(pages, **options)).render(markdown)


def _soup(markdown: str) -> BeautifulSoup:
    """For text to be taken from: HTML in it counts as text, and pictures pasted into it aren't looked for."""
    return BeautifulSoup(_html(markdown.replace("attachment:", ""), [], escape=True, exclude_anchor_links=True), "html.parser")


def _plain(element: Tag) -> str:
    return " ".join(element.get_text().split())


def _thumbnail(png: str) -> str:
    with Image.open(BytesIO(b64decode(png))) as picture:
        rgba = picture.convert("RGBA")
    small = Image.new("RGB", rgba.size, "white")
    small.paste(rgba, mask=rgba)
    small.thumbnail(THUMBNAIL)
    small.save(jpeg := BytesIO(), "JPEG", quality=85)
    return f"data:image/jpeg;base64,{b64encode(jpeg.getvalue()).decode()}"


def write_site(folder: Path, site: Path) -> None:
    """Writes the pages of the notebooks in `folder` to `site`: all of them, or none.

    Raises `DataError` where `folder` holds no executed notebook or one that can't be read, or `site` isn't ours to replace.
    """
    site = site.resolve()
    if folder.resolve().is_relative_to(site):
        raise DataError(f"{folder} is in {site}, which would be replaced: name a folder outside for the pages.")
    if site.exists() and not all(_is_ours(path) for path in site.iterdir()):
        raise DataError(f"{site} holds files that aren't of a report: name a new or empty folder.")
    pages = [read_page(path) for path in sorted(folder.glob(NAMES))]
    if not any(page.executed for page in pages):
        raise DataError(f"{folder} holds no executed notebook: run make reproduce first, or name build/PROFILE.")
    site.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=site.parent, prefix=f".{site.name}-") as holder:
        new = Path(holder) / "new"
        new.mkdir()
        for name, text in tqdm(_rendered(pages), total=len(pages) + 1, desc="report", unit="page"):
            (new / f"{name}.html").write_text(text, encoding="utf-8", newline="\n")
        if site.exists():
            site.rename(Path(holder) / "old")
        new.rename(site)


def _is_ours(path: Path) -> bool:
    return path.suffix == ".html" and path.is_file() and MARK in path.read_text(encoding="utf-8", errors="replace")


def _rendered(pages: list[Page]) -> Iterator[tuple[str, str]]:
    """Name and HTML of each page, the index last."""
    names = [page.name for page in pages]

    @pass_context
    def markdown2html(context: Context, source: str) -> str:
        return _html(source, names, escape=False, attachments=context["cell"].get("attachments"))

    exporter = HTMLExporter(template_name="classic", raw_template=PAGE, exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.register_filter("markdown2html", markdown2html)
    for before, page, after in zip([None, *pages], pages, [*pages[1:], None], strict=False):
        around = [
            (before.name, f"← {before.label.split(':')[0]}") if before else ("", ""),
            ("index", "Index"),
            (after.name, f"{after.label.split(':')[0]} →") if after else ("", ""),
        ]
        resources = {"title": page.label, "status": page.status, "around": around, "style": STYLE, "mark": MARK}
        yield page.name, exporter.from_notebook_node(page.notebook, resources)[0]
    yield "index", _index(pages)


def _index(pages: list[Page]) -> str:
    settings = [page.settings for page in pages]
    profiles = sorted({s["profile"] for s in settings if "profile" in s})
    real = profiles != ["demo"] or any(s.get("images") or REAL.search(" ".join(s.values())) for s in settings)
    missing = sorted({path.stem for path in SOURCES.glob(NAMES)} - {page.name for page in pages})
    facts = {
        "Profile": ", ".join(profiles) or "not known",
        "Pictures": "real, or not known" if real else "synthetic: evidence of nothing about real ones",
        "Notebooks": f"{len(pages)} of {len(pages) + len(missing)}",
        "Checks": _tally(sum((page.checks for page in pages), Counter())),
        "Python": ", ".join(
            sorted({page.notebook.metadata.get("language_info", {}).get("version", "not known") for page in pages})
        ),
    }
    resources = {"title": "Data fine-tuning: executed notebooks", "style": STYLE, "mark": MARK}
    index = Environment(autoescape=True, undefined=StrictUndefined).from_string(INDEX)
    return index.render(resources=resources, real=real, missing=missing, facts=facts, pages=pages, tally=_tally)


def _tally(checks: Counter[str]) -> str:
    return " · ".join(f"{sign} {checks[word]} {word}" for word, sign in SIGNS.items() if checks[word]) or "no checks"


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status, and lets a fault out as an exception only with --debug."""
    parser = command.parser("dftlib.report", __doc__)
    parser.add_argument("folder", type=Path, help="executed notebooks: build/PROFILE after make reproduce", metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, help="new, empty, or pages of an earlier call", metavar="SITE")
    options = parser.parse_args(argv)

    def work() -> int:
        write_site(options.folder, options.out)
        print(f"Open {options.out / 'index.html'} in a browser.")
        return 0

    return command.guarded(work, options.debug)


if __name__ == "__main__":
    sys.exit(main())
