"""What the commands of the kit share: a fault ends in one sentence and a status, its traceback shows with --debug."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import yaml

from dftlib import paths
from dftlib.errors import DataError

BAD_INPUT = 2  # exit status, argparse's own for a wrong option
STOPPED = 130  # by Ctrl-C, as shells have it


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser for `dft NAME` that shows the module's docstring as it stands, and knows --debug."""
    made = argparse.ArgumentParser(f"dft {name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--debug", action="store_true", help="show where a fault arose")
    return made


def guarded(work: Callable[[], int], debug: bool, quiet: bool = False) -> int:
    """The exit status of `work`; a `DataError`, a fault of the disk or Ctrl-C is said in one sentence, or raised with `debug`.

    quiet: say nothing (the other processes of a group do)
    """
    try:
        return work()
    except (DataError, OSError, KeyboardInterrupt) as error:
        if debug:
            raise
        if not quiet:
            print(sentence(error), file=sys.stderr)
        return STOPPED if isinstance(error, KeyboardInterrupt) else BAD_INPUT


def told(wrong: list[str]) -> int:
    """Says each of these sentences; the exit status, 1 where there are any."""
    for message in wrong:
        print(message, file=sys.stderr)
    return int(bool(wrong))


def sentence(error: BaseException) -> str:
    """What a fault means to who called the command, and what to do."""
    if isinstance(error, KeyboardInterrupt):
        return "Stopped: the same command goes on from here."
    return paths.fault(error) if isinstance(error, OSError) else " ".join(str(error).split())


def value(text: str) -> Any:
    """The value of a parameter written as YAML; `DataError` where it can't be read."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise DataError(f"{text!r} isn't YAML: put it in quotes, as in '[0, 1]' or '{{batch: 4}}'.") from None
