"""Fetches data sets, or the weights of VGGFace and of dlib's face network, from where they are to be had.

    dft download lfw celeba muct vggface dlib_face --to faces

The terms of each are shown first and must be accepted, once. A call that ended early, whatever ended it, is gone on with by the
same call; what is there already isn't fetched again. What can't be had keeps nothing else from being fetched; the last lines say
what came and what did not. Exit status: 0 all is there, 1 something isn't, 2 nothing could be done, 130 stopped.
"""

from pathlib import Path

from dftlib.cli import common
from dftlib.datasets.download import download
from dftlib.datasets.sources import SOURCES


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status, and lets a fault out as an exception only with --debug."""
    options = common.parser("download", __doc__)
    options.add_argument("names", nargs="+", choices=list(SOURCES), help=", ".join(SOURCES), metavar="NAME")
    options.add_argument("--to", type=Path, required=True, help="folder that gets lfw/, celeba/, muct/", metavar="FOLDER")
    options.add_argument("--accept-licences", action="store_true", help="accept all terms without being asked")
    given = options.parse_args(argv)
    return common.guarded(lambda: common.told(download(given.names, given.to, given.accept_licences)), given.debug)
