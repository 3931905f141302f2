"""Bad input as a user meets it: cause, command, what is said. `python tests/test_bad_input.py` prints the table.

Every command ends with the status and the one sentence of its row; with --debug the fault comes out as it arose.
"""

import contextlib
import io
import os
import pickle
import re
import resource
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import faces_on_disk
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from web_service import WebService

from dftlib import cli
from dftlib.cli.common import sentence
from dftlib.datasets import decode
from dftlib.errors import DataError
from dftlib.models import vggface
from dftlib.paths import ROOT
from dftlib.perturbation.perturbation import Perturbation

FIT = "dft fit --profile small -p data_root . --data {data} --model {data} --attribute {attribute} --out n.safetensors"
LFW, CELEBA, MUCT = (FIT.format(data=data, attribute="Gender") for data in ("lfw", "celeba", "muct"))
DEMO = "dft fit --data webcam --model webcam --attribute {} --out n.safetensors"
PAPER = CELEBA.replace("small", "paper") + " -p weights vgg_face_dag.pth"
PERTURB = "dft perturb --perturbation n.safetensors --in photos --out new"
TUNE = "dft tune --images photos --labels labels.csv --out tuned --budget 200 --pixels 16 --model {}"
REPRODUCE = f"dft run {ROOT}/notebooks/03_inter_dataset.ipynb --out done.ipynb -r profile small -r data_root {{}}"


@dataclass(frozen=True)
class Row:
    """`prepare` makes the fault, in the working folder; `said` is a regular expression of the whole sentence."""

    cause: str
    command: str
    said: str
    prepare: Callable[[], object] = lambda: None
    status: int = 2


def cut(path: str) -> None:
    faces_on_disk.truncate(Path(path))


def photos(count: int = 40, labels: int = 2) -> None:
    """Pictures of 16 x 16 and labels.csv."""
    for i in range(count):
        faces_on_disk.noise(Path(f"photos/{i}.png"), 16, 16, i)
    Path("labels.csv").write_text("file,label\n" + "".join(f"{i}.png,{'ab'[i % labels]}\n" for i in range(count)))


def one_sex() -> None:
    faces_on_disk.muct(Path())
    for path in Path("muct/jpg").glob("*-f?.jpg"):
        path.unlink()


def edited(make: Callable[[Path], Path], path: str, line: int, old: str, new: str) -> Callable[[], None]:
    def prepare() -> None:
        make(Path())
        faces_on_disk.edit(Path(path), line, old, new)

    return prepare


def with_faces(then: Callable[[], object]) -> Callable[[], None]:
    def prepare() -> None:
        faces_on_disk.celeba(Path())
        then()

    return prepare


def with_photos(then: Callable[[], object]) -> Callable[[], None]:
    def prepare() -> None:
        photos()
        Perturbation(torch.zeros(3, 16, 16)).save(Path("n.safetensors"))
        then()

    return prepare


def linked() -> None:
    Path("others").mkdir()
    Path("photos/link").symlink_to("../others")


class Bomb:
    """Pickled, it writes a file when it is read."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("exploded",)


def misfit() -> None:
    torch.save({f"{name}.{kind}": torch.zeros(2) for name in ("conv1_1",) for kind in ("weight", "bias")}, "vgg_face_dag.pth")


def small() -> None:
    names = [*(f"conv{name}" for name in vggface.VGGFACE_CONVS), "fc6", "fc7", "fc8"]
    torch.save({f"{name}.{kind}": torch.zeros(2) for name in names for kind in ("weight", "bias")}, "vgg_face_dag.pth")


def changed() -> None:
    misfit()
    Path("vgg_face_dag.pth.sha256").write_text("0" * 64)


def nan(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.full((len(pictures), 2), np.nan)


def three(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.ones((len(pictures), 3))


TABLE = [
    # folders and names
    Row("data_root isn't set", LFW.replace(" -p data_root .",
        ""), "Data set 'lfw' is read from disk: set the parameter data_root, .*"),
    Row("a missing folder", LFW, r"lfw/lfw_attributes\.txt is missing \(\. holds nothing\): call dft download lfw --to \., .*"),
    Row("a missing folder, in a notebook", REPRODUCE.format("nowhere"), r"nowhere/lfw/lfw_attributes\.txt is missing .*: .*"),
    Row("an unknown profile", DEMO.format("Gender --profile dmeo"),
        "There is no profile 'dmeo': choose one of demo, identity, paper, small, .*"),
    Row("an unknown parameter", DEMO.format("Gender -p wieght 3"), r"Unknown parameter 'wieght'; did you mean 'weight'\?"),
    Row("a parameter of another kind", DEMO.format("Gender -p epochs many"), "Parameter 'epochs' must be int, not 'many'."),
    Row("a parameter that is no YAML", DEMO.format("Gender -p seeds [0"), r"'\[0' isn't YAML: .*"),
    Row("an unknown data set", DEMO.format("Gender --data webcm"), "Profile 'demo' has no data set 'webcm': choose one of .*"),
    Row("an unknown attribute", DEMO.format("Sex"), "'webcam' has no attribute 'Sex': choose one of .*"),
    Row("an unknown box map", DEMO.format("Gender -p box sigmoid"), "There is no box map 'sigmoid': choose one of .*"),
    Row("no GPU", DEMO.format("Gender -p device cuda"), "Parameter 'device' is 'cuda', but torch sees no CUDA device: .*"),
    # pictures and labels
    Row("a set in another layout", CELEBA,
        r"celeba/list_attr_celeba\.txt is missing \(celeba holds pictures\): .*",
        lambda: faces_on_disk.noise(Path("celeba/pictures/1.jpg"), 8, 8)),
    Row("a truncated picture", CELEBA, r"celeba/img_align_celeba/000003\.jpg can't be read .*: fetch that picture again\.",
        with_faces(lambda: cut("celeba/img_align_celeba/000003.jpg"))),
    Row("a picture that is none", CELEBA, r"celeba/img_align_celeba/000003\.jpg can't be read .*: fetch that picture again\.",
        with_faces(lambda: Path("celeba/img_align_celeba/000003.jpg").write_text("<html>"))),
    Row("a HEIC picture under another name", CELEBA,
        r"celeba/img_align_celeba/000003\.jpg is a HEIC picture, .* pillow-heif, or .*",
        with_faces(lambda: Path("celeba/img_align_celeba/000003.jpg").write_bytes(faces_on_disk.HEIC))),
    Row("a missing picture", CELEBA, r"1 of the 20 pictures that the label file names aren't in .*, the first is 000003\.jpg: .*",
        with_faces(lambda: Path("celeba/img_align_celeba/000003.jpg").unlink())),
    Row("a line with a column too many", CELEBA, r"Line 5 of celeba/list_attr_celeba\.txt has \d+ columns, not \d+: .*",
        edited(faces_on_disk.celeba, "celeba/list_attr_celeba.txt", 5, "1", "1 1")),
    Row("a label that is no number", LFW, r"Line 5 of lfw/lfw_attributes\.txt has 'x\S+' for 'Male', which must be a number: .*",
        edited(lambda root: faces_on_disk.lfw(root), "lfw/lfw_attributes.txt", 5, "\t3\t", "\t3\tx")),
    Row("a class without a picture", MUCT,
        "Data set 'muct' has no picture in its train split where 'Gender' is absent: .*", one_sex),
    Row("an attribute without labels", FIT.format(data="muct", attribute="Smiling"),
        "Data set 'muct' has no labels for 'Smiling': .*",
        lambda: faces_on_disk.muct(Path())),
    # weights
    Row("no weight file", PAPER, r"The VGGFace weights vgg_face_dag\.pth are missing: .* set .*", with_faces(lambda: None)),
    Row("a weight file that changed", PAPER, r"vgg_face_dag\.pth changed since its first use: .*", with_faces(changed)),
    Row("weights of another network", PAPER,
        r"vgg_face_dag\.pth is not a VGGFace weight file \(it has no .*", with_faces(misfit)),
    Row("a weight of another shape", PAPER,
        r"vgg_face_dag\.pth: \S+ has shape \(2,\), not \(64, 3, 3, 3\): name another file, .*", with_faces(small)),
    Row("code in a weight file", PAPER, r"vgg_face_dag\.pth is not a VGGFace weight file: .*",
        with_faces(lambda: Path("vgg_face_dag.pth").write_bytes(pickle.dumps(Bomb())))),
    # perturbing a folder
    Row("no perturbation file", PERTURB,
        r"n\.safetensors is not a saved perturbation.*", with_photos(lambda: Path("n.safetensors").unlink())),
    Row("a truncated perturbation", PERTURB,
        r"n\.safetensors is not a saved perturbation.*", with_photos(lambda: cut("n.safetensors"))),
    Row("code in its place", PERTURB, r"n\.safetensors is not a saved perturbation.*",
        with_photos(lambda: Path("n.safetensors").write_bytes(pickle.dumps(Bomb())))),
    Row("one for grey pictures", PERTURB, r"n\.safetensors is for pictures of 1 channels, not 3: .*", with_photos(
        lambda: save_file({"n": torch.zeros(1, 4, 4)}, "n.safetensors", {"perturbation": '{"box": "clip", "about": {}}'}))),
    Row("no pictures", PERTURB.replace("photos", "empty"),
        "empty holds no picture: .*", with_photos(lambda: Path("empty").mkdir())),
    Row("the output in the input", PERTURB.replace("new", "photos/new"),
        "photos/new is in photos: name an output folder outside, .*",
        with_photos(lambda: None)),
    Row("a picture that can't be read", PERTURB, r"photos/7\.png can't be read .*: fetch that picture again\.",
        with_photos(lambda: cut("photos/7.png")), 1),
    Row("a picture in HEIC", PERTURB, r"photos/a\.heic is a HEIC picture, as phones take them: call pip install pillow-heif, .*",
        with_photos(lambda: Path("photos/a.heic").write_bytes(faces_on_disk.HEIC)), 1),
    Row("a link that leads nowhere", PERTURB, r"photos/a\.png \(a broken link\) is left out\.",
        with_photos(lambda: Path("photos/a.png").symlink_to("nowhere.png")), 1),
    Row("a name too long for another ending", PERTURB, r"photos/x{251}\.png has too long a name .*: shorten it\.",
        with_photos(lambda: Path("photos/0.png").rename(f"photos/{'x' * 251}.png")), 1),
    Row("the output in a linked folder", PERTURB.replace("new", "others/new"),
        "others/new is in photos: name an output folder .*",
        with_photos(linked)),
    Row("an output that is no folder", PERTURB, "new is a file: name a new folder.", with_photos(lambda: Path("new").touch())),
    # fetching
    Row("terms that nobody accepts", "dft download muct --to faces",
        "Without a terminal nobody can accept .*"),
    Row("an unwritable folder", "dft download muct --to file/below --accept-licences",
        r".*/file/below can't be read or written \(Not a directory\): name another place\.", lambda: Path("file").touch()),
    # one's own classifier
    Row("a label file without a header", TUNE.format("m.onnx"),
        r"The first line of labels\.csv names the column 'file' 0 times: .*",
        with_photos(lambda: Path("labels.csv").write_text("1.png,a\n"))),
    Row("no model file", TUNE.format("m.onnx"), r"There is no model file m\.onnx: .*", photos),
    Row("a model file that is none", TUNE.format("m.onnx"), r"The model m\.onnx can't be run \(.*\): export it again\.",
        with_photos(lambda: Path("m.onnx").write_text("<html>"))),
    Row("a model that answers NaN", TUNE.format("test_bad_input:nan"),
        "The function nan answers with scores that are not numbers: .*", photos),
    Row("a model of three classes for two labels", TUNE.format("test_bad_input:three"), ".*3 .*2 .*", photos),
    Row("a service that answers 500", TUNE.format("{500}") + " --options '{retries: 1}'", ".* 500 .*", photos),
    Row("a service that limits its rate", TUNE.format("{429}") + " --options '{retries: 1}'", ".* 429 .*", photos),
    Row("a service that is too slow", TUNE.format("{stall}") + " --options '{retries: 0, timeout: 0.3}'", ".*0.3 s.*", photos),
    Row("a service that answers something else", TUNE.format("{garbage}") + " --options '{retries: 0}'", ".*JSON.*", photos),
]  # fmt: skip


@contextlib.contextmanager
def served(command: str) -> Iterator[str]:
    """The command with {FAULT} as the address of a service that has that fault whenever it is asked."""
    if not (found := re.search(r"\{(\w+)\}", command)):
        yield command
        return
    with WebService(lambda pictures: np.ones((len(pictures), 2)), [found[1]] * 1000) as service:
        service.headers["Retry-After"] = "0"
        yield command.replace(found[0], service.url)


def call(command: str) -> tuple[int, str]:
    """Exit status and standard error of `dft …`, in this process."""
    with contextlib.redirect_stderr(io.StringIO()) as error, contextlib.redirect_stdout(io.StringIO()):
        status = cli.main(shlex.split(command)[1:])
    return status, error.getvalue()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DFT_DATA", raising=False)
    monkeypatch.setattr(decode, "knows_heic", lambda: False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # of the notebooks' kernels: test_bad_input:nan
    return tmp_path


def slow(row: Row) -> list[pytest.MarkDecorator]:
    """Those that start a notebook's kernel take seconds."""
    return [pytest.mark.slow] if row.command.startswith(("dft run", "dft tune")) else []


@pytest.mark.parametrize("row", [pytest.param(row, id=row.cause, marks=slow(row)) for row in TABLE])
def test_is_said_in_one_sentence(row: Row, folder: Path) -> None:
    row.prepare()
    with served(row.command) as command:
        status, error = call(command)
    *progress, said = error.splitlines()
    assert (status, bool(re.fullmatch(row.said, said))) == (row.status, True), error
    assert not [line for line in progress if line.strip() and "Executing" not in line], "one sentence, and no more"
    assert said.endswith((".", "?"))
    assert not Path("exploded").exists()
    assert not [p for p in folder.rglob(".*-????????.*")]


@pytest.mark.parametrize("row", [row for row in TABLE if not slow(row) and row.status == 2], ids=lambda row: row.cause)
def test_debug_shows_where_it_arose(row: Row) -> None:
    row.prepare()
    with pytest.raises((DataError, OSError)) as fault:
        call(f"{row.command} --debug")
    assert re.fullmatch(row.said, sentence(fault.value))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "prepare"),
    [(DEMO.format("Gender -p n_train 100 -p n_fit 60"), lambda: None), (PERTURB, with_photos(lambda: None))],
)
def test_a_full_disk(command: str, prepare: Callable[[], object], folder: Path) -> None:
    """Files may not grow beyond 600 bytes: that is how a full disk begins. Nothing half-written stays, and later it works."""
    prepare()

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))

    environment = {**os.environ, "DFT_CACHE": str(folder / "cache")}
    given = [sys.executable, "-m", "dftlib", *shlex.split(command)[1:]]
    done = subprocess.run(given, preexec_fn=limited, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 2
    assert re.fullmatch(r".* can't be read or written \(File too large\): make room and call again\.\n", done.stderr)
    assert not [p for p in folder.rglob("*") if re.fullmatch(r"\..*-.{8}\..*", p.name)]


def main() -> None:
    """Prints the table in Markdown, each sentence as the command says it."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    os.environ.pop("DFT_DATA", None)
    print("| cause | command | status | what is said |\n|---|---|---|---|")
    for row in TABLE:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), served(row.command) as command:
            row.prepare()
            status, error = call(command)
        shown = row.command.replace(f"{ROOT}/", "")
        print(f"| {row.cause} | `{shown}` | {status} | {error.splitlines()[-1]} |", flush=True)


if __name__ == "__main__":
    main()
