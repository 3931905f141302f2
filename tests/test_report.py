"""Pages of executed notebooks: complete, readable without a network, and true about what stopped or is missing."""

import base64
import io
import re
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from dftlib import report
from dftlib.config import ROOT, DataError

STORED = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
FACES = "Pages of a run on real pictures may show faces: don't publish them."
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def png(width: int = 900) -> str:
    Image.new("RGBA", (width, 300), (255, 0, 0, 128)).save(file := io.BytesIO(), "PNG")
    return base64.b64encode(file.getvalue()).decode()


def code(source: str, *outputs: NotebookNode, tags: tuple[str, ...] = (), count: int | None = 1) -> NotebookNode:
    return new_code_cell(source, outputs=list(outputs), execution_count=count, metadata={"tags": list(tags)})


def shown(**data: str) -> NotebookNode:
    return new_output("display_data", data={name.replace("_", "/", 1): value for name, value in data.items()})


def said(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", name=name, text=text)


def failed(ename: str, evalue: str) -> NotebookNode:
    return new_output("error", ename=ename, evalue=evalue, traceback=[f"{ename}: {evalue}"])


def parameters(profile: str = "demo", more: str = "") -> NotebookNode:
    return code(f'profile: str = "{profile}"  # lfw is a word of the comment\n{more}', tags=("parameters",))


def put(folder: Path, name: str, *cells: NotebookNode | str) -> None:
    """Writes a notebook; a string is a markdown cell."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [new_markdown_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    nbformat.write(new_notebook(cells=made), folder / f"{name}.ipynb")


def page(site: Path, name: str = "index") -> Any:
    """The parsed page; untyped, since every step through it could type as None."""
    return BeautifulSoup((site / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


def made(tmp_path: Path, *cells: NotebookNode | str) -> tuple[Any, Any]:
    """The page and the index of a folder with this notebook and an empty 02_other."""
    put(tmp_path / "in", "01_one", *cells)
    put(tmp_path / "in", "02_other", "# 02 · Other", code("1"))
    report.write_site(tmp_path / "in", tmp_path / "out")
    return page(tmp_path / "out", "01_one"), page(tmp_path / "out")


def card(index: Any, number: int = 0) -> str:
    return index.find_all("article")[number].get_text("\n", strip=True)


@pytest.fixture(autouse=True)
def no_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made notebooks aren't held against those of the repository."""
    monkeypatch.setattr(report, "SOURCES", tmp_path / "sources")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of the repository's notebooks with their stored outputs."""
    out = tmp_path_factory.mktemp("report") / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "SOURCES", ROOT / "notebooks")
        report.write_site(ROOT / "notebooks", out)
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Any]:
    return {path.stem: page(site, path.stem) for path in site.iterdir()}


def test_a_page_for_every_notebook_and_an_index(site: Path, pages: dict[str, Any]) -> None:
    assert {path.name for path in site.iterdir()} == {"index.html"} | {f"{path.stem}.html" for path in STORED}
    index = pages["index"]
    assert len(index.find_all("article")) == len(STORED)
    assert "Missing" not in index.get_text()
    assert not index.select(".bad")
    assert index.find("dd", string="demo")
    assert FACES not in index.get_text()
    assert card(index, 1).startswith("01 ·\nThe classifiers that nobody may change\nA pretrained face network, frozen,")


def test_nothing_comes_from_a_network(pages: dict[str, Any]) -> None:
    for soup in pages.values():
        assert not soup.find_all(["link", "script", "iframe", "object", "embed"])
        assert all(element["src"].startswith("data:image/") for element in soup.find_all(src=True))
        css = " ".join([style.get_text() for style in soup.find_all("style")] + [e["style"] for e in soup.find_all(style=True)])
        assert not re.search(r"@import|url\(", css)
        assert soup.find("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY})


def test_every_equation_is_mathml(site: Path) -> None:
    for path in STORED:
        sources = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
        written = re.findall(r"\$\$.+?\$\$|\$.+?\$", re.sub("`.*?`", "", "\n".join(sources)))
        soup = page(site, path.stem)
        equations = soup.find_all("math")
        assert len(equations) == len(written)
        assert all(equation.get_text() and "\\" not in equation.get_text() for equation in equations)
        for element in soup.select("pre, code, math"):
            element.extract()
        assert "$" not in soup.main.get_text()
    assert len(page(site, "02_intra_dataset").select("math[display=block]")) == 2


def test_every_link_leads_to_a_place_of_the_site(pages: dict[str, Any]) -> None:
    linked = set()
    places = {name: {element["id"] for element in soup.find_all(id=True)} for name, soup in pages.items()}
    for name, soup in pages.items():
        for link in soup.find_all("a", href=True):
            url = urlsplit(link["href"])
            if not url.scheme:
                target = url.path.removesuffix(".html") or name
                assert target in pages
                assert not url.fragment or {url.fragment, unquote(url.fragment)} & places[target]
                linked.add((name, target))
    assert ("08_flipping_attributes", "03_inter_dataset") in linked, "'notebook 03' in its prose"
    assert {("index", path.stem) for path in STORED} <= linked
    neighbours = [(path.stem, "index") for path in STORED]
    neighbours += [pair for a, b in pairwise(STORED) for pair in ((a.stem, b.stem), (b.stem, a.stem))]
    for name, target in neighbours:
        assert pages[name].header.find("a", href=f"{target}.html")


def test_every_figure_is_in_its_page(pages: dict[str, Any]) -> None:
    for path in STORED:
        outputs = [o for cell in nbformat.read(path, 4).cells if cell.cell_type == "code" for o in cell.outputs]
        figures = [o.data["image/png"].replace("\n", "") for o in outputs if "image/png" in o.get("data", {})]
        images = pages[path.stem].find_all("img")
        assert [image["src"].partition(",")[2].replace("\n", "") for image in images] == figures
        assert all(image["alt"] and image["alt"] != "No description has been provided for this image" for image in images)


def test_the_same_notebooks_give_the_same_bytes(tmp_path: Path) -> None:
    """Cells get random ids whenever they are made."""
    for name in ("a", "b"):
        put(tmp_path / name, "01_one", "# 01 · One\n\n$x$", code("1", shown(image_png=png())), parameters())
        report.write_site(tmp_path / name, tmp_path / f"{name}-site")
    cells = [nbformat.read(tmp_path / name / "01_one.ipynb", 4).cells[0] for name in ("a", "b")]
    assert cells[0].id != cells[1].id
    for name in ("index.html", "01_one.html"):
        assert (tmp_path / "a-site" / name).read_bytes() == (tmp_path / "b-site" / name).read_bytes()


def test_a_card_says_what_the_notebook_is(tmp_path: Path) -> None:
    checks = said("PASS a\nPASS b PASS\nSKIP c\nno PASS here\n")
    _, index = made(
        tmp_path,
        "before\n\n# 01 · A *title* of `words`\n\n## Part",
        "First\n**paragraph**, $x^2$.\n\nSecond.",
        code("0", shown(image_png=png()), shown(image_png=png(1)), checks),
        code("1", said("PASS d"), failed("AssertionError", "FAIL e")),
    )
    assert card(index) == (
        "01 ·\nA title of words\n✗ stopped with an error: AssertionError\nFirst paragraph, x2.\n"
        "Checks: ✓ 3 PASS · ✗ 1 FAIL · – 1 SKIP"
    )
    image = index.article.img
    assert image["alt"] == "Part"
    with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) as small:
        assert small.size == (640, 213)
        assert small.getpixel((5, 5)) == pytest.approx((255, 127, 127), abs=3), "transparent on white"
    assert "no checks" in card(index, 1)
    assert not index.find_all("article")[1].img
    assert index.find("dt", string="Checks").find_next("dd").get_text() == "✓ 3 PASS · ✗ 1 FAIL · – 1 SKIP"


def test_a_script_in_a_title_is_text(tmp_path: Path) -> None:
    title = '# <script>alert(1)</script> & "<b>x</b>"'
    made_page, index = made(tmp_path, f"{title}\n\n<script>alert(2)</script>", code("1", shown(image_png=png())))
    assert card(index).startswith(f"01 ·\n{title[2:]}\n<script>alert(2)</script>")
    assert not index.find_all(["script", "b"])
    assert index.article.img["alt"] == made_page.img["alt"] == title[2:]
    assert made_page.title.get_text() == f"01 · {title[2:]}"
    assert page(tmp_path / "out", "02_other").nav.script is None


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    put(tmp_path / "in", "01_stopped", "# A", code("1", failed("ValueError", "x")), code("2", count=None))
    put(tmp_path / "in", "02_never", "# B", code("1", count=None), code("", count=None))
    put(tmp_path / "in", "03_halfway", "# C", code("1"), code("2", count=None))
    put(tmp_path / "in", "04_older", "# D", code("1"))
    put(tmp_path / "in", "05_good", "# E", code("1"), code("p = 1", tags=("injected-parameters",)), code("", count=None))
    put(report.SOURCES, "04_older", "# D", code("2"))
    put(report.SOURCES, "05_good", "# E", code("1", count=None), code("", count=None))
    put(report.SOURCES, "06_gone", "# F")
    put(report.SOURCES, "07_too", "# G")
    report.write_site(tmp_path / "in", tmp_path / "out")
    index = page(tmp_path / "out")
    wrong = [
        "✗ stopped with an error: ValueError",
        "✗ not executed",
        "✗ not executed to its end",
        "✗ made from another version of notebooks/04_older.ipynb",
        "",
    ]
    assert ["".join(p.get_text() for p in article.select(".bad")) for article in index.find_all("article")] == wrong
    for name, status in zip(("01_stopped", "02_never", "03_halfway", "04_older", "05_good"), wrong, strict=True):
        assert "".join(p.get_text() for p in page(tmp_path / "out", name).select("header .bad")) == status
    assert "Missing: 06_gone, 07_too: run make reproduce with the same PROFILE." in index.header.get_text().replace("\n", " ")
    assert index.find("dt", string="Notebooks").find_next("dd").get_text() == "5 of 7"
    assert "ValueError: x" in page(tmp_path / "out", "01_stopped").main.get_text()


def test_what_needs_a_kernel_and_noise_are_left_out(tmp_path: Path) -> None:
    widget = new_output(
        "display_data", data={"application/vnd.jupyter.widget-view+json": {"model_id": "m"}, "text/plain": "IntSlider()"}
    )
    soup, index = made(
        tmp_path,
        "# One",
        code("kept = 1", widget, said("0%| progress", "stderr"), said("words")),
    )
    text = soup.get_text()
    assert "IntSlider" not in str(soup)
    assert "model_id" not in str(soup)
    assert "progress" not in text
    assert "kept" in text
    assert "words" in text
    assert "no checks" in card(index)
    assert not index.img


def test_html_and_pasted_pictures_in_prose_stay(tmp_path: Path) -> None:
    cell = new_markdown_cell("H<sub>2</sub>O ![a drop](attachment:a.png)", attachments={"a.png": {"image/png": png()}})
    soup, _ = made(tmp_path, cell, code("1"))
    assert soup.main.sub.get_text() == "2"
    assert soup.main.img["src"].startswith("data:image/png;base64,")


def test_dollars_in_code_are_no_mathematics(tmp_path: Path) -> None:
    soup, _ = made(tmp_path, "# A\n\n`$HOME` and `$$x$$` and \\$5, $y<z$\n\n    $a$\n\n```\n$b$\n```", code("1"))
    assert [code.get_text().strip() for code in soup.main.find_all("code")] == ["$HOME", "$$x$$", "$a$", "$b$"]
    assert [equation.get_text() for equation in soup.find_all("math")] == ["y<z"]
    assert "and $5" in soup.get_text()


def test_an_equation_that_no_one_can_read_stays_latex(tmp_path: Path) -> None:
    soup, _ = made(tmp_path, r"a $\left( <b$ c", code("1"))
    assert soup.main.code.get_text() == r"\left( <b"


def test_norms_and_limits_are_drawn_as_latex_draws_them(tmp_path: Path) -> None:
    soup, _ = made(tmp_path, r"$$\min_{N} \lVert X \rVert$$ and $\max(x)$", code("1"))
    block, inline = soup.find_all("math")
    assert block.munder.get_text() == "minN"
    assert [mo.get("stretchy") for mo in block.find_all("mo", string="‖")] == ["false", "false"]
    assert inline.mi.get_text() == "max"


def test_names_of_notebooks_lead_to_their_pages(tmp_path: Path) -> None:
    soup, _ = made(
        tmp_path,
        "`02_other.ipynb`, [there **02**](../notebooks/02_other.ipynb#Part), Notebooks 01, 02 and 07, notebook 02's 01,"
        " [notebook 02](02_other.ipynb), `07_gone.ipynb`, [file](../README.md), [web](https://x.org/a.ipynb), [up](#A)",
        code("1"),
    )
    assert [(link.get_text(), link["href"]) for link in soup.main.find_all("a")] == [
        ("02_other.ipynb", "02_other.html"),
        ("there 02", "02_other.html#Part"),
        ("01", "01_one.html"),
        ("02", "02_other.html"),
        ("02", "02_other.html"),
        ("notebook 02", "02_other.html"),
        ("web", "https://x.org/a.ipynb"),
        ("up", "#A"),
    ]
    assert "07_gone.ipynb, file, web" in soup.main.get_text()


@pytest.mark.parametrize(
    ("cells", "faces"),
    [
        ([parameters()], False),
        ([parameters(), code('profile = "demo"\ndatasets = ["press"]\nimages = ""', tags=("injected-parameters",))], False),
        ([parameters(), code('profile = "small"', tags=("injected-parameters",))], True),
        ([parameters("mine")], True),
        ([parameters(more='datasets = ["press", "muct"]')], True),
        ([parameters(more='images: str = "photos"  # a folder')], True),
        ([code("profile = 'demo'")], True),
    ],
)
def test_a_run_on_real_faces_comes_with_a_warning(tmp_path: Path, cells: list[NotebookNode], faces: bool) -> None:
    _, index = made(tmp_path, *cells)
    assert (FACES in index.header.get_text()) is faces


@pytest.mark.parametrize(
    "text",
    [
        "not JSON",
        "[]",
        '{"a": 1}',
        nbformat.writes(new_notebook(cells=[code("1", said("x"))])).replace('"text"', '"words"'),
        nbformat.writes(new_notebook(cells=[code("1", shown(image_png="AAAA"))])),
    ],
)
def test_a_file_that_is_no_notebook_is_named(tmp_path: Path, text: str) -> None:
    put(tmp_path / "in", "01_one", code("1"))
    (tmp_path / "in" / "02_bad.ipynb").write_text(text)
    with pytest.raises(DataError, match=r"02_bad\.ipynb can't be read as a notebook \(.+\): run it again, or take it out"):
        report.write_site(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("made", ["nothing", "empty", "unexecuted", "half-written"])
def test_a_folder_without_an_executed_notebook(tmp_path: Path, made: str) -> None:
    folder = tmp_path / "in"
    if made != "nothing":
        folder.mkdir()
    if made == "unexecuted":
        put(folder, "01_one", "# One", code("1", count=None))
    if made == "half-written":
        put(folder, ".running-01_one", "# One", code("1"))
    with pytest.raises(DataError, match="holds no executed notebook: run make reproduce first, or name build/PROFILE"):
        report.write_site(folder, tmp_path / "out")


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    put(tmp_path / "in", "01_one", "# One", code("1"))
    put(tmp_path / "in", "02_two", "# Two", code("1"))
    (tmp_path / "out").mkdir()
    report.write_site(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "02_two.ipynb").unlink()
    report.write_site(tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"], "no temporary folder is left"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["01_one.html", "index.html"]


@pytest.mark.parametrize(("name", "text"), [("notes.txt", report.MARK), ("own.html", "mine"), ("folder.html/x", "mine")])
def test_what_is_not_ours_is_kept(tmp_path: Path, name: str, text: str) -> None:
    put(tmp_path / "in", "01_one", "# One", code("1"))
    report.write_site(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / name).write_text(text)
    with pytest.raises(DataError, match="holds files that aren't of a report: name a new or empty folder"):
        report.write_site(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == text


def test_the_notebooks_themselves_are_never_replaced(tmp_path: Path) -> None:
    put(tmp_path / "site" / "in", "01_one", "# One", code("1"))
    for site in (tmp_path / "site", tmp_path / "site" / "in"):
        with pytest.raises(DataError, match="which would be replaced"):
            report.write_site(tmp_path / "site" / "in", site)


def test_a_report_that_fails_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "in", "01_one", "# One", code("1"))
    report.write_site(tmp_path / "in", tmp_path / "out")
    before = (tmp_path / "out" / "01_one.html").read_bytes()
    put(tmp_path / "in", "01_one", "# Another", code("1"))

    def full(pages: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "_index", full)
    with pytest.raises(OSError, match="No space"):
        report.write_site(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / "01_one.html").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "in", "01_one", "# One", code("1"))
    out = tmp_path / "new" / "out"
    assert report.main([str(tmp_path / "in"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Open {out / 'index.html'} in a browser."
    assert report.main([str(tmp_path), "--out", str(out)]) == 2
    assert capsys.readouterr().err == f"{tmp_path} holds no executed notebook: run make reproduce first, or name build/PROFILE.\n"
    assert report.main([str(tmp_path / "in"), "--out", str(out / "index.html")]) == 2
    assert "index.html can't be read or written (Not a directory): name another place." in capsys.readouterr().err
    with pytest.raises(DataError):
        report.main([str(tmp_path), "--out", str(out), "--debug"])
