"""The first figure of a profile of drawn faces, before any notebook runs: figures/PROFILE/glance.png.

    python -m dftlib.glance --profile demo

Eight faces before and after; what it computes stays in the cache, where the notebooks find it. Exit status: 0 done, 2 bad input.
"""

import sys

from dftlib import figures, store, studies, tables
from dftlib.command import guarded, parser
from dftlib.config import load_profile


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status, and lets a fault out as an exception only with --debug."""
    options = parser("dftlib.glance", __doc__)
    options.add_argument("--profile", default="demo", help="of notebooks/profiles (default: demo)")
    given = options.parse_args(argv)

    def work() -> int:
        run = load_profile(given.profile)
        note = "synthetic faces" if run.synthetic else ""
        shown = tables.glance(run, studies.featured(run)[0])
        path = store.write_figure(figures.examples(**shown, note=note), "glance", run.profile)
        print(f"{path}: {shown['title']}")
        return 0

    return guarded(work, given.debug)


if __name__ == "__main__":
    sys.exit(main())
