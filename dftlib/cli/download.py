"""Fetches data sets, or the VGGFace weights, from where they are published.

    dft download lfw celeba muct vggface --to faces

The terms of each are shown first and must be accepted, once. A call that ended early, whatever ended it, is gone on with by the
same call; what is there already isn't fetched again. Exit status: 0 all is there, 2 something isn't, 130 stopped.
"""

from pathlib import Path

from dftlib.cli import common
from dftlib.datasets.download import SOURCES, download


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status, and lets a fault out as an exception only with --debug."""
    options = common.parser("download", __doc__)
    options.add_argument("names", nargs="+", choices=list(SOURCES), help=", ".join(SOURCES), metavar="NAME")
    options.add_argument("--to", type=Path, required=True, help="folder that gets lfw/, celeba/, muct/", metavar="FOLDER")
    options.add_argument("--accept-licences", action="store_true", help="accept all terms without being asked")
    given = options.parse_args(argv)

    def work() -> int:
        download(given.names, given.to, given.accept_licences)
        return 0

    return common.guarded(work, given.debug)
