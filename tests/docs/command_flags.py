"""Parse command lines with the commands' own parsers, and run nothing: `python -m tests.docs.command_flags < JSON`.

The input is a list of `[module or script, argument, ...]`; the output a list of complaints, one a command, empty for
one that is accepted. It is a process of its own, because the commands install handlers of signals.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import runpy
import sys
from collections.abc import Sequence
from typing import Any, NoReturn


class _Parsed(BaseException):
    """The command line was accepted."""


def _parse_args(parser: argparse.ArgumentParser, args: Sequence[str] | None = None, namespace: Any = None) -> NoReturn:
    _, unknown = parser.parse_known_args(args, namespace)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    raise _Parsed


def complaint(command: list[str]) -> str:
    """Return what a command says about its arguments; empty if it accepts them."""
    name, *arguments = command
    sys.argv = [name, *arguments]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            if name.endswith(".py"):
                runpy.run_path(name, run_name="__main__")
            else:
                runpy.run_module(name, run_name="__main__")
    except _Parsed:
        return ""
    except SystemExit as error:
        return "" if error.code == 0 else said.getvalue() or str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "it has no parser of arguments"


def main() -> None:
    """Read commands, write complaints."""
    argparse.ArgumentParser.parse_args = _parse_args  # type: ignore[method-assign, assignment]
    given = json.load(sys.stdin)
    print(json.dumps([complaint(command) for command in given]))


if __name__ == "__main__":
    main()
