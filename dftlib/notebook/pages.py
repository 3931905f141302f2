"""Executed notebooks as pages that any browser shows from the disk: nothing in them is fetched, and equations are MathML.

    python -m dftlib.notebook.pages build/demo-report build/demo/*.ipynb

writes a page for each, and index.html.
"""

import html
import re
import sys
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter

from dftlib.artefacts import whole

# nbconvert's own, without the scripts that it has a browser fetch
FETCHED = ("html_head_js_requirejs", "html_head_js_mathjax", "html_head_js_mermaidjs", "jupyter_widgets")
TEMPLATE = "{% extends 'index.html.j2' %}" + "".join(f"{{% block {name} %}}{{% endblock %}}" for name in FETCHED)
# code that Jupyter hides is folded
TEMPLATE += """{% block input_group %}{% if cell.metadata.get('jupyter', {}).get('source_hidden') %}
<details><summary>code</summary>{{ super() }}</details>{% else %}{{ super() }}{% endif %}{% endblock %}"""
RESULT = "result"  # the tag of cells that a reader of results wants
# Of results alone: a column to read on a screen, A4 on paper, and neither a table nor a picture that begins on one sheet and
# ends on the next.
STYLE = """{% block extra_css %}<style>
body { max-width: 60rem; margin: auto !important; overflow: auto !important }
td, th { overflow-wrap: break-word; white-space: normal !important }
li { overflow-wrap: anywhere }
img { max-width: 100% !important }
@page { size: A4; margin: 15mm }
@media print {
  .jp-Cell, .jp-Cell-outputWrapper, .jp-OutputArea, .jp-OutputArea-child {
    display: block !important; break-inside: auto !important
  }
  table, img, li { break-inside: avoid }
  h1, h2, .jp-MarkdownCell { break-after: avoid }
}
</style>{% endblock %}"""


def write_page(notebook: Path, page: Path, results: bool = False) -> None:
    """Writes the page of an executed notebook; of `results` only the cells with the tag `RESULT`, and no code."""
    read = nbformat.read(notebook, 4)
    if results:
        read.cells = [cell for cell in read.cells if RESULT in cell.metadata.get("tags", [])]
    for cell in read.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"(\$\$?)(.+?)\1", _equation, cell.source, flags=re.DOTALL)
    bare = {"exclude_input": results, "exclude_output_prompt": results, "exclude_input_prompt": results}
    exporter = HTMLExporter(raw_template=TEMPLATE + STYLE * results, **bare)
    text, _ = exporter.from_notebook_node(read, {"metadata": {"name": notebook.stem}})
    with whole(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _equation(found: re.Match[str]) -> str:
    return convert(found[2].strip(), display="block" if found[1] == "$$" else "inline")


def write_report(folder: Path, notebooks: list[Path]) -> Path:
    """Writes their pages to the folder, and the index that leads to them; returns its path."""
    items = []
    for notebook in notebooks:
        write_page(notebook, folder / f"{notebook.stem}.html")
        items.append(f'<li><a href="{html.escape(notebook.stem)}.html">{html.escape(notebook.stem.replace("_", " "))}</a>')
    title = f"Data fine-tuning: {html.escape(folder.name.removesuffix('-report'))}"
    with whole(index := folder / "index.html") as temporary:
        start = f'<!doctype html><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>'
        temporary.write_text(f"{start}<ul>{''.join(items)}</ul>\n", encoding="utf-8")
    return index


if __name__ == "__main__":
    print(f"Done: {write_report(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])}")
