"""The command line: subcommands, exit codes, and signals that end them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from vexpress_rt.cli.cache import run_cache
from vexpress_rt.cli.compile import run_compile
from vexpress_rt.cli.generate import run_generate
from vexpress_rt.cli.inspect import run_inspect
from vexpress_rt.cli.parser import parse
from vexpress_rt.cli.terminal import open_stream, say
from vexpress_rt.cli.tune import run_tune
from vexpress_rt.errors import VExpressError
from vexpress_rt.utils.memory_errors import explain, ran_out
from vexpress_rt.utils.signals import GracefulShutdown

CLOSED_PIPE = 128 + 13  # as if ended by SIGPIPE, which Python ignores
_COMMANDS = {
    "generate": run_generate, "inspect": run_inspect, "compile": run_compile, "tune": run_tune, "cache": run_cache,
}  # fmt: skip


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: see `__main__.main`."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    with GracefulShutdown(at_steps=True) as shutdown:
        try:
            return _print(_COMMANDS[options.command](options, shutdown))
        except BaseException as error:
            if shutdown.number is not None or isinstance(error, KeyboardInterrupt):  # a signal may cause any exception
                return _fail("interrupted; nothing partial is left", shutdown.exit_code)
            if isinstance(error, VExpressError):
                return _fail(f"error: {error}", 1)
            if ran_out(error):
                return _fail(f"error: {explain(error)}", 1)
            raise


def _fail(text: str, code: int) -> int:
    with suppress(OSError, ValueError):
        say(text, open_stream(sys.stderr))
    return code


def _print(text: str) -> int:
    if not text:
        return 0
    try:
        say(text, open_stream(sys.stdout))
    except OSError as error:
        # Python flushes stdout once more when it exits, and would report the error again.
        with suppress(AttributeError, OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE if isinstance(error, BrokenPipeError) else _fail(f"error: cannot print: {error}", 1)
    return 0
