"""The first figure of a profile of drawn faces, before any notebook runs: figures/PROFILE/glance.png.

    dft glance --profile demo

Eight faces before and after; what it computes stays in the cache, where the notebooks find it. Exit status: 0 done, 2 bad input.
"""

from dftlib.cli.common import guarded, parser
from dftlib.experiments import ablations, tables
from dftlib.experiments.lab import Lab
from dftlib.experiments.profile import load_profile
from dftlib.notebook import outputs
from dftlib.plots import data_finetuning


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status, and lets a fault out as an exception only with --debug."""
    options = parser("glance", __doc__)
    options.add_argument("--profile", default="demo", help="of notebooks/profiles (default: demo)")
    given = options.parse_args(argv)

    def work() -> int:
        lab = Lab(load_profile(given.profile))
        note = "synthetic faces" if lab.profile.synthetic else ""
        shown = tables.glance(lab, ablations.shown(lab))
        path = outputs.write_figure(data_finetuning.examples(**shown, note=note), "glance", lab.profile.profile)
        print(f"{path}: {shown['title']}")
        return 0

    return guarded(work, given.debug)
