"""Fetches data sets, or the VGGFace weights, from where they are published.

    python -m dftlib.datasets download lfw celeba muct vggface --to faces

The terms of each are shown first and must be accepted, once. A call that ended early, whatever ended it, is gone on with by the
same call; what is there already isn't fetched again. Exit status: 0 all is there, 2 something isn't, 130 stopped.
"""

import argparse
import sys
from pathlib import Path

from dftlib import command
from dftlib.datasets.download import SOURCES, download


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status, and lets a fault out as an exception only with --debug."""
    parser = command.parser("dftlib.datasets", __doc__)
    fetch = parser.add_subparsers(required=True, metavar="download").add_parser("download", help="fetch and unpack")
    fetch.add_argument("names", nargs="+", choices=list(SOURCES), help=", ".join(SOURCES), metavar="NAME")
    fetch.add_argument("--to", type=Path, required=True, help="folder that gets lfw/, celeba/, muct/", metavar="DIR")
    fetch.add_argument("--accept-licences", action="store_true", help="accept all terms without being asked")
    # suppressed, as the default here would undo a --debug before the subcommand
    fetch.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show where a fault arose")
    options = parser.parse_args(argv)

    def work() -> int:
        download(options.names, options.to, options.accept_licences)
        return 0

    return command.guarded(work, options.debug)


if __name__ == "__main__":
    sys.exit(main())
