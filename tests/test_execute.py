"""The command `dft`; executing a notebook: one sentence for bad input and failed checks, nothing that only looks finished."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from dftlib import artefacts, cli, progress
from dftlib.cli import perturb
from dftlib.cli import run as command
from dftlib.cli.common import guarded, sentence
from dftlib.paths import PROFILES, cache_folder, output_folder

KNOWN = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yaml")))


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """Does what its parameter `does` says."""
    path = tmp_path / "in.ipynb"
    cells = [
        new_code_cell("does: str = ''\ncount: int = 0", metadata={"tags": ["parameters"]}),
        new_code_cell("from dftlib.errors import DataError\nfrom dftlib.notebook import checks\nexec(does)"),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_help_names_every_command_and_loads_nothing() -> None:
    code = "import sys; from dftlib import cli; cli.main(['--help']); print(*{'torch', 'numpy', 'pandas'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == ""
    for name, (what, example) in cli.COMMANDS.items():
        assert f"  {name} " in said
        assert what in said
        assert example.startswith(f"dft {name}")
        assert (Path(cli.__file__).parent / f"{name}.py").is_file()


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: dft {name} ")
    assert f"dftlib {name} " in said or f"    dft {name}" in said
    assert "Exit status: 0 " in " ".join(said.split())


def test_a_command_that_isnt_there_and_one_whose_package_isnt(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["tuen"]) == 2
    assert capsys.readouterr().err == f"There is no command 'tuen': choose one of {', '.join(cli.COMMANDS)}.\n"
    for name in ("dftlib.cli.download", "dftlib.datasets.download"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert cli.main(["download", "lfw", "--to", "faces"]) == 2
    assert capsys.readouterr().err == "`dft download` needs the package pooch: call pip install 'dftlib[kit,blackbox]'.\n"

    def lacking(_: list[str]) -> int:
        raise ModuleNotFoundError(name="dlib")  # met on the way, by an N of aligned faces

    monkeypatch.setattr(perturb, "main", lacking)
    assert cli.main(["perturb"]) == 2
    assert capsys.readouterr().err == "`dft perturb` needs the package dlib: call pip install 'dftlib[kit,blackbox]'.\n"


def run(notebook: Path, *options: str) -> int:
    return command.main([str(notebook), "--out", str(notebook.parent / "out.ipynb"), *options])


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.slow
def test_parameters_are_laid_over_each_other(notebook: Path) -> None:
    file = notebook.with_name("given.yaml")
    file.write_text("count: 1\ndoes: print(count)\n")
    assert run(notebook, "-f", str(file), "-p", "count", "3") == 0
    (cell,) = nbformat.read(notebook.parent / "out.ipynb", 4).cells[-1:]
    assert cell.outputs[0].text == "3\n"
    assert run(notebook, "-y", "count: 4", "-r", "does", "print(count)") == 0
    (cell,) = nbformat.read(notebook.parent / "out.ipynb", 4).cells[-1:]
    assert cell.outputs[0].text == "4\n"
    (later := notebook.with_name("later.yaml")).write_text("count: 2\n")
    assert run(notebook, "-f", str(file), "-f", str(later)) == 0
    (cell,) = nbformat.read(notebook.parent / "out.ipynb", 4).cells[-1:]
    assert cell.outputs[0].text == "2\n"


@pytest.mark.slow
def test_a_fault_of_the_input_is_one_sentence(notebook: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(notebook, "-r", "does", "raise DataError('No such faces: fetch them.')") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "No such faces: fetch them."
    assert names(notebook.parent) == ["in.ipynb", "out.stopped.ipynb"]
    (cell,) = nbformat.read(notebook.parent / "out.stopped.ipynb", 4).cells[-1:]
    assert cell.outputs[0].traceback == ["No such faces: fetch them."], "a notebook shows the sentence alone"
    assert run(notebook) == 0
    assert names(notebook.parent) == ["in.ipynb", "out.ipynb"]


@pytest.mark.slow
def test_so_is_a_fault_of_the_input_that_has_a_name_of_its_own(notebook: Path, capsys: pytest.CaptureFixture[str]) -> None:
    does = "from dftlib.classifiers.answers import RowsError\nraise RowsError('It answers with 3 rows for 4 pictures: mend it.')"
    assert run(notebook, "-r", "does", does) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "It answers with 3 rows for 4 pictures: mend it."


@pytest.mark.slow
def test_a_failed_check_is_one_sentence_and_a_bug_has_its_traceback(notebook: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(notebook, "-r", "does", "checks.check('two is three', 2 == 3)") == 1
    error = capsys.readouterr().err
    assert "\nFAIL two is three\n" in error
    assert "Traceback" not in error
    assert run(notebook, "-r", "does", "1 / 0") == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert names(notebook.parent) == ["in.ipynb", "out.stopped.ipynb"]


@pytest.mark.slow
def test_a_failure_leaves_the_last_whole_notebook(notebook: Path) -> None:
    assert run(notebook, "-p", "count", "5") == 0
    before = (notebook.parent / "out.ipynb").read_bytes()
    assert run(notebook, "-r", "does", "1 / 0") == 1
    assert (notebook.parent / "out.ipynb").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("-f", str(PROFILES / "dmeo.yaml")), f"dmeo.yaml: choose one of {KNOWN}, or write it."),
        (("-y", "{count: 1"), "'{count: 1' isn't YAML"),
        (("-y", "7"), "'7' names no parameters: write 'name: value'."),
        (("-p", "count", "[1"), "'[1' isn't YAML"),
    ],
)
def test_parameters_that_cant_be_read(
    notebook: Path, options: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(notebook, *options) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"does: caf\xe9\n", "isn't UTF-8: save it as text in UTF-8."),
        (b"count: 1\nseeds: [0\n", "isn't YAML: write a line 'name: value' for each parameter."),
        (b"", "names no parameters: write 'name: value'."),
    ],
)
def test_a_file_of_parameters_that_cant_be_read(
    notebook: Path, text: bytes, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := notebook.with_name("own.yaml")).write_bytes(text)
    assert run(notebook, "-f", str(file)) == 2
    assert capsys.readouterr().err == f"{file} {sentence}\n"


def test_a_notebook_that_isnt_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "01.ipynb") == 2
    assert capsys.readouterr().err == f"There is no notebook {tmp_path / '01.ipynb'}: name one of the folder notebooks.\n"
    (tmp_path / "README.md").write_text("# no JSON")
    assert run(tmp_path / "README.md") == 2
    assert capsys.readouterr().err == f"{tmp_path / 'README.md'} is no notebook: name one of the folder notebooks.\n"


@pytest.mark.slow
def test_the_kernel_is_the_python_that_runs_it(notebook: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Others are named python3 too: on JUPYTER_PATH, in the user's home, or in the notebook's own metadata."""
    for folder in (tmp_path / "path", tmp_path / "home"):
        (spec := folder / "kernels" / "python3" / "kernel.json").parent.mkdir(parents=True)
        foreign = {"argv": ["/bin/false", "{connection_file}"], "display_name": "Python 3", "language": "python"}
        spec.write_text(json.dumps(foreign))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "path"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "home"))
    saved = nbformat.read(notebook, 4)
    saved.metadata.kernelspec.name = "another-environment"
    nbformat.write(saved, notebook)
    assert run(notebook, "-r", "does", "import sys; print(sys.executable)") == 0
    (cell,) = nbformat.read(notebook.parent / "out.ipynb", 4).cells[-1:]
    assert cell.outputs[0].text.strip() == sys.executable


@pytest.mark.slow
def test_any_folder_and_any_text(notebook: Path) -> None:
    """Quotes, blanks, $ and letters beyond ASCII, as in an address with a key."""
    odd = 'o\'brien "my" faces ä?key=a$bcd\\n'
    moved = notebook.parent / "o'brien's ä $x" / notebook.name
    moved.parent.mkdir()
    notebook.rename(moved)
    assert run(moved, "-r", "does", f"print({odd!r})") == 0
    (cell,) = nbformat.read(moved.parent / "out.ipynb", 4).cells[-1:]
    assert cell.outputs[0].text == f"{odd}\n"


@pytest.mark.slow
def test_a_cache_that_belongs_to_another(notebook: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = cache_folder() / "synthetic"
    assert run(notebook, "-r", "does", f"raise PermissionError(13, 'Permission denied', {str(place)!r})") == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"{place} can't be read or written (Permission denied): {OWN}."


OWN = "set the variables DFT_CACHE and DFT_OUTPUT to folders that you may write to"


@pytest.mark.parametrize("name", ["cache", "results/demo/a.csv", "figures/demo"])
def test_what_may_not_be_written_is_said_with_its_variables(name: str) -> None:
    path = str(cache_folder() / "faces" if name == "cache" else output_folder() / name)
    for number in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
        assert sentence(OSError(number, os.strerror(number), path)).endswith(f"({os.strerror(number)}): {OWN}.")
    assert sentence(OSError(errno.ENOSPC, "No space left", path)).endswith("(No space left): make room and call again.")
    assert sentence(OSError(errno.EACCES, "No", "/elsewhere/labels.csv")).endswith("(No): name another place.")
    assert sentence(OSError("cannot identify image file")) == (
        "A file can't be read or written (cannot identify image file): name another place."
    )


def test_following_it_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A cache where a file lies, as where nobody may write (who runs tests may be root)."""
    (tmp_path / "file").touch()

    def keeps() -> int:
        artefacts.tensors("kind", 1, {}, lambda: {"one": torch.ones(1)})
        return 0

    monkeypatch.setenv("DFT_CACHE", str(tmp_path / "file"))
    assert guarded(keeps, debug=False) == 2
    assert capsys.readouterr().err.endswith(f": {OWN}.\n")
    monkeypatch.setenv("DFT_CACHE", str(tmp_path / "own"))
    assert guarded(keeps, debug=False) == 0


def test_what_a_notebook_says_comes_in_lines_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole ones, as two of them write at a time."""
    out = Screen()
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setattr(sys, "stdout", out)
    assert progress.watched(out)
    with command.lines():
        assert sys.stderr is out, "in a terminal bars are drawn"
    monkeypatch.setenv("DFT_PREFIX", "03")
    assert not progress.watched(out)
    with command.lines():
        for text in ("one\ntwo", " and a half\n\n", "\r 0%", "\r50%"):
            sys.stderr.write(text)
        sys.stderr.flush()
        print("last", end="")
    assert out.getvalue().splitlines() == ["03: one", "03: two and a half", "03:  0%", "03: 50%", "03: last"]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.skipif(sys.platform == "win32", reason="whose names are text")
def test_a_name_that_no_output_has_letters_for(tmp_path: Path) -> None:
    """A folder whose name isn't text, as of an old archive: the command says what it did, and doesn't end in a traceback."""
    code = "import os; from dftlib import cli; cli.main(['--version']); print(os.fsdecode(b'na\\xefve'), 'ä')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "na\\udcefve \\xe4"
