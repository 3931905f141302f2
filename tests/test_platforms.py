"""Linux, macOS and Windows, as far as one of them can show it: what only some have is taken away; and odd names in make."""

import ast
import ctypes
import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import dftlib.experiments
from dftlib import paths
from dftlib.cli import fit
from dftlib.paths import ROOT

FILES = sorted(paths.PACKAGE.rglob("*.py"))
POSIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog", "msvcrt", "winreg"}
BINARY = {"Image.open", "tarfile.open", "bz2.open"}
# of the modules os and signal, what Windows lacks
LACKING = {
    "fork", "getuid", "geteuid", "getgid", "getpgid", "killpg", "setsid", "sched_getaffinity", "sysconf", "statvfs", "getloadavg",
    "mkfifo", "uname", "nice", "confstr", "chown", "SIGALRM", "SIGKILL", "SIGHUP", "SIGSTOP", "alarm", "setitimer", "pause",
}  # fmt: skip


def found(file: Path) -> list[str]:
    """What a module takes for granted that not every system has; without a named encoding Windows takes that of its language."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    used = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    wrong = [
        *(names & POSIX),
        *(use for use in used if use.partition(".")[0] in ("os", "signal") and use.split(".")[1] in LACKING),
    ]
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        given = [str(n.value) for n in ast.walk(call) if isinstance(n, ast.Constant)]
        texts = name.endswith((".read_text", ".write_text")) or (
            name.split(".")[-1] == "open" and name not in BINARY and not {"rb", "wb", "ab"} & set(given)
        )
        if name.startswith("subprocess.") or (texts and not {"utf-8", "utf-8-sig"} & set(given)):
            wrong.append(ast.unparse(call))
    return wrong


def test_no_module_needs_what_a_system_lacks() -> None:
    assert {str(file): wrong for file in FILES if (wrong := found(file))} == {}


@pytest.mark.parametrize(
    "line",
    ["import fcntl", "from resource import getrusage", "os.getuid()", "signal.SIGALRM", "subprocess.run(['stdbuf'])",
     "path.read_text()", "path.open()", "open(name, 'a')", "path.write_text('ä')"],
)  # fmt: skip
def test_it_would_be_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(line, encoding="utf-8")
    assert len(found(tmp_path / "module.py")) == 1
    (tmp_path / "module.py").write_text("path.open('rb'); path.open(encoding='utf-8'); path.read_text('utf-8')", encoding="utf-8")
    assert found(tmp_path / "module.py") == []


@pytest.mark.slow
def test_every_module_is_imported_without_them() -> None:
    code = f"""
import builtins, pkgutil, importlib
taken, real = {POSIX!r}, builtins.__import__
def without(name, namespace=None, *rest, **more):
    if (namespace or {{}}).get("__name__", "").startswith("dftlib") and name.split(".")[0] in taken:
        raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
    return real(name, namespace, *rest, **more)
builtins.__import__ = without
import dftlib
names = [m.name for m in pkgutil.walk_packages(dftlib.__path__, "dftlib.") if not m.name.endswith("__main__")]
print(len([importlib.import_module(name) for name in names]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len([p for p in FILES if p.stem != "__main__" and p != paths.PACKAGE / "__init__.py"])


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_the_allocator_is_set_where_there_is_one(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS and musl have no mallopt, and Windows takes no None for a library."""
    asked = []

    def library(name: str | None) -> Any:
        asked.append(name)
        return object()

    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", platform)
        patch.setattr(ctypes, "CDLL", library)
        importlib.reload(dftlib.experiments)
    assert asked == ([None] if platform == "linux" else [])


@pytest.mark.parametrize(("device", "meets"), [("cpu", "gloo"), ("cuda", "nccl"), ("auto", "nccl")])
def test_processes_meet_by_what_their_device_has(
    device: str, meets: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine with a GPU; nccl knows no tensor of a processor."""
    asked = []

    def meet(backend: str, **_: Any) -> None:
        asked.append(backend)
        raise dftlib.DataError("They have met.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(dist, "init_process_group", meet)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    cell = ["--data", "webcam", "--model", "studio", "--attribute", "Gender", "--out", "n.safetensors", "-p", "device", device]
    assert fit.main(cell) == 2
    assert asked == [meets]
    assert capsys.readouterr().err == "They have met.\n"
    monkeypatch.setenv("RANK", "1")
    assert fit.main(cell) == 2
    assert capsys.readouterr().err == "", "the first process speaks for all"


# --- make -------------------------------------------------------------------------------------------------------------------

# and no stdbuf, which a Mac lacks
TOOLS = ["basename", "cat", "dirname", "env", "find", "grep", "make", "mkdir", "mv", "rm", "sh", "touch"]
STUB = """#!/bin/sh
if [ "$1" = -c ]; then exec {python} "$@"; fi  # how many cores there are
line=called
for word in "$(basename "$0")" "$@" "$DFT_PREFIX" "$DFT_OUTPUT"; do line="$line|$word"; done
printf '%s\\n' "$line" >> "{log}"  # at once: make calls two at a time
while [ $# -gt 0 ]; do if [ "$1" = --out ]; then mkdir -p "$(dirname "$2")"; touch "$2"; fi; shift; done
"""


class Project:
    """A checkout whose programs only write down how they are called, and a PATH with no more than a Mac has."""

    def __init__(self, folder: Path, tools: Path) -> None:
        self.folder, self.log = folder, tools / "log"
        for name in ("dftlib", "notebooks"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Makefile", "pyproject.toml", "setup.py", "requirements.lock"):
            shutil.copy(ROOT / name, folder)
        (tools / "bin").mkdir(parents=True)
        for tool in TOOLS:
            (tools / "bin" / tool).symlink_to(str(shutil.which(tool)))
        stub = STUB.format(python=sys.executable, log=self.log)
        (folder / ".venv" / "bin").mkdir(parents=True)
        for program in ("dft", "jupyter", "pip", "pytest", "python", "ruff", "mypy"):
            self.program(folder / ".venv" / "bin" / program, stub)
        self.program(tools / "my python's", stub)
        self.python = tools / "my python's"
        (folder / ".venv" / "installed").touch()
        self.environment = {"PATH": str(tools / "bin"), "HOME": str(tools)}

    @staticmethod
    def program(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def make(self, *words: str) -> list[list[str]]:
        """How programs were called."""
        self.log.write_text("")
        done = subprocess.run(
            ["make", "--no-print-directory", *words], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "not found" not in done.stderr
        return [line.split("|")[1:] for line in self.log.read_text().splitlines()]


ODD = ["plain", "my project", "o'brien's", 'quo"ted', "grün", "a$b"]


@pytest.mark.parametrize("name", ODD)
def test_make_in_any_folder_for_any_folder(name: str, tmp_path: Path) -> None:
    """The project's own, and that of the faces."""
    project = Project(tmp_path / name, tmp_path / "tools")
    data = f"../my faces/{name}"
    called = project.make("reproduce", "DATA=" + data.replace("$", "$$"), "JOBS=3")
    notebooks = sorted(p.name for p in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    runs = [words for words in called if words[:2] == ["dft", "run"]]
    assert sorted(Path(words[2]).name for words in runs) == notebooks
    for words in runs:
        stem = Path(words[2]).name
        assert words[2:-1] == [
            f"notebooks/{stem}", "--out", f"build/demo/{stem}", "-f", "notebooks/profiles/demo.yaml", "-r", "data_root", data,
            Path(stem).stem,
        ]  # fmt: skip
    assert [words[:2] for words in called].count(["dft", "glance"]) == 1
    (report,) = [words for words in project.make("report") if words[0] == "python"]
    assert report[1:4] == ["-m", "dftlib.notebook.pages", "build/demo-report"]
    assert [Path(word).name for word in report[4:-2]] == notebooks
    compared = [words for words in project.make("test") if "--nbval" in words]
    assert [words[-1] for words in compared] == [str(tmp_path / name / "build" / "test")]


def test_make_installs_by_any_python_from_any_index(tmp_path: Path) -> None:
    project = Project(tmp_path / "my project", tmp_path / "tools")
    (project.folder / ".venv" / "installed").unlink()
    (project.folder / ".venv" / "bin" / "pip").unlink()
    made = subprocess.run(
        ["make", "-n", "install", f"PYTHON={project.python}", "TORCH_INDEX=https://host/a?key=b'c&d=$$e"],
        cwd=project.folder, env=project.environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert '"$PYTHON" -m venv .venv' in made
    assert '--index-url "$TORCH_INDEX" torch' in made
    for line in ['"$PYTHON" -m venv .venv', '.venv/bin/python --index-url "$TORCH_INDEX"']:
        recipe = project.folder / "one.mk"
        recipe.write_text(f"include Makefile\none:\n\t{line.replace('$', '$$')}\n")
        called = project.make("-f", "one.mk", "one", f"PYTHON={project.python}", "TORCH_INDEX=https://host/a?key=b'c&d=$$e")
        assert called[0][:-2] in (
            ["my python's", "-m", "venv", ".venv"],
            ["python", "--index-url", "https://host/a?key=b'c&d=$e"],
        )


@pytest.mark.parametrize("profile", ["", "my profile", "o'brien", 'a"b', "a$$b", "demo small", "dmeo"])
def test_make_says_which_profiles_there_are(profile: str) -> None:
    done = subprocess.run(["make", "-n", "reproduce", f"PROFILE={profile}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    known = " ".join(sorted(p.stem for p in paths.PROFILES.glob("*.yaml")))
    wanted = f"There is no profile '{profile.replace('$$', '$')}': choose one of {known}, or write it in notebooks/profiles"
    assert wanted in done.stderr
    assert len(done.stderr.splitlines()) == 1
