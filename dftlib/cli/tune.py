"""Fits N to your own pictures and a classifier that only answers, and reports what it does.

    dft tune --images photos --labels labels.csv --model model.onnx --budget 4000 --out tuned
    dft tune --images photos --labels labels.csv --model https://host/classify --pixels 64 --budget 2500 --out tuned

The CSV has the columns file, label and, where people come twice, person. The model is a file that onnxruntime runs, the address
of a web service, or module:function. Writes to the folder OUT: report.html (whether N is recommended, accuracy before and after
with intervals, remedies, each class, examples) and report.ipynb (notebook 10, executed, from which it is made),
perturbation.safetensors for `dft perturb`, tables, and answers.db, which holds every answer paid for: a killed call asks nothing
twice. Exit status: 0 done, 1 a check failed, 2 bad input.
"""

from pathlib import Path

from dftlib.cli.common import guarded, parser, value
from dftlib.cli.run import executed
from dftlib.notebook.pages import write_page
from dftlib.paths import NOTEBOOKS


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status, and lets a fault out as an exception only with --debug."""
    options = parser("tune", __doc__)
    options.add_argument("--images", required=True, metavar="FOLDER")
    options.add_argument("--labels", required=True, metavar="CSV")
    options.add_argument("--model", required=True, metavar="FILE|URL|MODULE:FUNCTION")
    options.add_argument("--budget", required=True, type=int, metavar="N", help="pictures that the model may be asked, in all")
    options.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    options.add_argument("--pixels", default="0", metavar="N", help="height = width of the model's pictures, or '[218, 178]'")
    options.add_argument("--align", action="store_true", help="find the face in each picture, and add N to it in one place")
    options.add_argument("--sided", action="store_true", help="the classes depend on left and right: N need not be symmetric")
    options.add_argument("--classes", default="[]", metavar="YAML", help="in the order of the answers, such as '[male, female]'")
    options.add_argument("--options", default="{}", metavar="YAML", help="of the model, such as '{batch: 4}': see notebook 10")
    given = options.parse_args(argv)
    report = given.out / "report.ipynb"

    def work() -> int:
        asked = {name: asked for name, asked in vars(given).items() if name != "debug"} | {"out": str(given.out)}
        asked |= {name: value(asked[name]) for name in ("pixels", "classes", "options")}
        if stopped := executed(NOTEBOOKS / "10_your_own_classifier.ipynb", report, asked, given.debug):
            return stopped
        write_page(report, report.with_suffix(".html"), results=True)
        print(f"Done: {report.with_suffix('.html')} and, beside it, the perturbation and its tables.")
        return 0

    return guarded(work, given.debug)
