"""Nothing leaves the computer unasked, and nothing is written but to the cache and the outputs: each command in an empty home.

An audit hook in every Python that a command starts notes which addresses it looks up, reaches or opens, and what it opens for
writing; strace, where there is one, notes the addresses that compiled code reaches. What lies in the home and the temporary
folder afterwards is looked at too.
"""

import ipaddress
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faces_on_disk
import nbformat
import pytest
import requests
from killed import kill
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dftlib import cli, paths
from dftlib.models.dlib_files import DlibGender
from dftlib.notebook import pages
from dftlib.paths import ROOT

HOOK = """
import json, os, sys
log = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
asks = {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"}
def seen(event, args):
    found = None
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        found = ["writes", os.path.abspath(os.fsdecode(args[0]))] if isinstance(args[0], (str, bytes, os.PathLike)) else None
    elif event == "os.mkdir":
        found = ["writes", os.path.abspath(os.fsdecode(args[0]))]
    elif event in asks:
        found = ["reaches", args[1][0] if isinstance(args[1], tuple) else ""]  # "": a file of this computer, or a connected peer
    elif event == "socket.getaddrinfo":
        found = ["reaches", args[0] or ""]
    if found:
        os.write(log, (json.dumps(found) + "\\n").encode())
sys.addaudithook(seen)
"""


@dataclass
class Room:
    """A home, a temporary folder and a folder to work in, all empty, and a cache that the commands of this module share."""

    folder: Path
    cache: Path

    def __post_init__(self) -> None:
        for name in ("home", "tmp", "work", "hook"):
            (self.folder / name).mkdir()
        (self.folder / "hook" / "sitecustomize.py").write_text(HOOK)
        self.environment = {
            "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]), "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"), "PYTHONPATH": str(self.folder / "hook"), "PYTHONDONTWRITEBYTECODE": "1",
            "DFT_CACHE": str(self.cache), "DFT_OUTPUT": str(self.folder / "work"), "OMP_NUM_THREADS": "1",
            "AUDIT_LOG": str(self.folder / "audit"), "ORT_DISABLE_TELEMETRY": "0",
        }  # fmt: skip
        tracer = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto", "-o", str(self.folder / "traced")]
        there = shutil.which("strace") and not subprocess.run([*tracer, "true"], capture_output=True).returncode
        self.tracer = tracer if there else []

    def command(self, *words: object) -> list[str]:
        return [*self.tracer, *map(str, words)]

    def call(self, *words: object) -> str:
        done = subprocess.run(
            self.command(*words), cwd=self.folder / "work", env=self.environment, capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def seen(self, what: str) -> set[str]:
        log = [json.loads(line) for line in (self.folder / "audit").read_text().splitlines()]
        return {place for kind, place in log if kind == what}

    def reached(self) -> set[str]:
        """Addresses and names that are not of this computer."""
        traced = (self.folder / "traced").read_text() if self.tracer else ""
        addresses = re.findall(r'inet_(?:addr\(|pton\(AF_INET6, )"([^"]+)"', traced)
        found = self.seen("reaches") | set(addresses)
        return {place for place in found if not local(place)}

    def written(self) -> set[str]:
        """What was opened for writing elsewhere than in the cache, the work and the temporary folder."""
        own = (self.cache, self.folder / "work", self.folder / "tmp", Path("/dev"))
        return {place for place in self.seen("writes") if not any(Path(place).is_relative_to(folder) for folder in own)}

    def left(self, name: str) -> list[str]:
        return sorted(str(p.relative_to(self.folder)) for p in (self.folder / name).rglob("*"))

    def check(self) -> None:
        assert self.seen("writes"), "the hook notes nothing"
        assert self.reached() == set()
        assert self.written() == set()
        assert self.left("home") == []
        assert self.left("tmp") == []


def local(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address in ("", "localhost")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def room(tmp_path: Path, cache: Path) -> Room:
    return Room(tmp_path, cache)


def test_the_hook_sees_what_is_done(room: Room) -> None:
    """Else all the other tests pass."""
    code = """
import os, socket
open(os.path.expanduser("~/new"), "w").close()
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))
"""
    room.call(sys.executable, "-c", code)
    assert room.reached() == {"192.0.2.1"}
    assert room.written() == {str(room.folder / "home" / "new")}
    assert room.left("home") == ["home/new"]


@pytest.mark.slow
def test_importing_the_library(room: Room) -> None:
    code = "import dftlib, os; [getattr(dftlib, name) for name in dftlib.__all__]; open('done', 'w').close()"
    room.call(sys.executable, "-c", code)
    assert room.reached() == room.written() == set()
    assert room.left("home") == []
    assert not [name for name in room.left("tmp") if "torchinductor" not in name], "torch's own, an empty folder"


@pytest.mark.slow
def test_fit_and_perturb(room: Room) -> None:
    small = shlex.split("-p n_train 40 -p n_val 31 -p n_fit 41 -p steps 1 -p head_epochs 2")
    cell = shlex.split("--data webcam --model studio --attribute Gender --out n.safetensors")
    room.call("dft", "fit", *small, *cell)
    faces_on_disk.noise(room.folder / "work" / "photos" / "a.png", 64, 64, 0)
    room.call("dft", "perturb", "--perturbation", "n.safetensors", "--in", "photos", "--out", "new")
    assert (room.folder / "work" / "new" / "a.png.png").is_file()
    room.check()


@pytest.mark.slow
def test_glance(room: Room) -> None:
    room.call("dft", "glance")
    assert room.left("work") == ["work/figures", "work/figures/demo", "work/figures/demo/glance.png"]
    room.check()


def notebook(path: Path, *cells: nbformat.NotebookNode) -> Path:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=list(cells), metadata={"kernelspec": kernel}), path)
    return path


@pytest.mark.slow
def test_run(room: Room) -> None:
    """A figure, and a history of inputs."""
    cells = [new_code_cell("figure = 1", metadata={"tags": ["parameters"]}),
             new_code_cell("import matplotlib.pyplot as plt\nplt.plot([figure, 2])\nplt.show()")]  # fmt: skip
    made = notebook(room.folder / "work" / "in.ipynb", *cells)
    room.call("dft", "run", made, "--out", "out.ipynb")
    assert room.left("work") == ["work/in.ipynb", "work/out.ipynb"]
    room.check()
    assert {"matplotlib", "ipython"} <= {p.name for p in room.cache.iterdir()}


@pytest.mark.slow
def test_tune(room: Room) -> None:
    """Pictures of the user's, an own model: neither its name nor they leave, nor does who opens the report fetch anything."""
    model = room.folder / "secret_customer.onnx"
    shutil.copy(DlibGender.file, model)
    for i in range(60):
        faces_on_disk.noise(room.folder / "work" / "photos" / f"{i}.png", 32, 32, i)
    rows = "".join(f"{i}.png,{i % 2}\n" for i in range(60))
    (room.folder / "work" / "labels.csv").write_text(f"file,label\n{rows}")
    asked = shlex.split("--images photos --labels labels.csv --budget 250 --out tuned --model")
    room.call("dft", "tune", *asked, model, "--options", "{mean: [122.8, 117.0, 104.3], deviation: 256}")
    room.check()
    assert fetched((room.folder / "work" / "tuned" / "report.html").read_text()) == []
    assert not [p for p in room.cache.rglob("*") if p.is_file() and b"secret_customer" in p.read_bytes()]


def fetched(page: str) -> list[str]:
    """What a browser fetches for a page: sources, style sheets, imports; comments and links to click fetch nothing."""
    page = re.sub(r"/\*.*?\*/|<!--.*?-->", "", page, flags=re.DOTALL)
    return re.findall(r"""(?:src\s*=\s*|<link[^>]*href\s*=\s*|url\(|@import\s*|import\()["']?(?:https?:)?//[^"' )>]+""", page)


def test_a_page_fetches_nothing_and_has_its_equations(tmp_path: Path) -> None:
    made = notebook(tmp_path / "in.ipynb", new_markdown_cell("# One\n\n$$Z = X + N$$ with $N_k$ <b>"), new_code_cell("1"))
    index = pages.write_report(tmp_path / "demo-report", [made])
    page = (tmp_path / "demo-report" / "in.html").read_text()
    assert fetched(page) == []
    assert page.count("<math") == 2
    assert 'display="block"' in page
    assert "$" not in re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL)
    assert '<a href="in.html">in</a>' in index.read_text()
    assert fetched("<script src='https://host/x.js'>") != [], "or it finds nothing"


@pytest.fixture
def server(room: Room) -> Iterator[Any]:
    """What `make lab` starts, but for the browser."""
    made = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command = shlex.split(made[made.rindex(".venv/bin/jupyter lab") :].replace("\\\n", " "))
    url, token = "http://127.0.0.1:18931", {"token": "quiet"}
    more = ["--no-browser", "--allow-root", "--port=18931", "--IdentityProvider.token=quiet", "--ServerApp.port_retries=0"]
    words = [Path(sysconfig.get_path("scripts")) / "jupyter", command[1], *more, *command[2:-1], room.folder / "work"]
    log = (room.folder / "jupyter.log").open("w")
    with subprocess.Popen(room.command(*words), env=room.environment, stdout=log, stderr=log) as process:
        try:
            until = time.monotonic() + 180
            while time.monotonic() < until:
                with suppress(requests.RequestException):
                    requests.get(f"{url}/api/status", params=token, timeout=5)
                    break
                time.sleep(0.5)
            yield lambda page: requests.get(f"{url}/{page}", params=token, timeout=60)
        finally:
            kill(process, "power")


@pytest.mark.slow
def test_jupyterlab(room: Room, server: Any) -> None:
    """What its pages ask for when they are opened: it looks for updates, news and extensions, if it may."""
    for page in ("lab", "lab/api/update", "lab/api/news", "lab/api/extensions", "lsp/status"):
        assert server(page).status_code == 200
    assert room.seen("writes")
    assert room.reached() == set()


def test_the_commands_keep_others_to_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Unless the user has said where."""
    for name in paths.OTHERS:
        monkeypatch.setenv(name, "as the user says")
    cli.main(["perturb", "--perturbation", "none", "--in", str(tmp_path), "--out", str(tmp_path / "new")])
    assert {os.environ[name] for name in paths.OTHERS} == {"as the user says"}
    for name in paths.OTHERS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    paths.keep_to_cache()
    assert all(Path(os.environ[name]).parent == paths.cache_folder() for name in paths.OTHERS)
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
