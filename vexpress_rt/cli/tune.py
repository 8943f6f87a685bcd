"""`vexpress-rt tune`: measure which provider runs a bundle fastest on this CPU, for `--provider auto`."""

from __future__ import annotations

import argparse
import sys

from vexpress_rt.cli.bundle_option import bundle_folder
from vexpress_rt.cli.progress import CommandProgress
from vexpress_rt.cli.terminal import open_stream
from vexpress_rt.utils.memory_errors import check_limit
from vexpress_rt.utils.signals import GracefulShutdown


def run_tune(options: argparse.Namespace, shutdown: GracefulShutdown) -> str:
    """Measure the providers, or remove the results with --forget.

    Args:
        options: The parsed flags.
        shutdown: Checked between steps.

    Returns:
        The text to print.

    Raises:
        VExpressError: As `tuning.tune` and `Bundle.open` do.
    """
    folder = bundle_folder(options.engines)
    if options.forget:
        return _forget(folder)
    with CommandProgress(open_stream(sys.stderr)) as progress:
        progress.show("loading libraries and bundle")
        check_limit()
        from vexpress_rt.backends.tuning import tune

        def report(stage: str, done: int, total: int) -> None:
            shutdown.check()
            progress(stage, done, total)

        return tune(folder, threads=options.threads, force=options.force, progress=report).describe()


def _forget(folder: str) -> str:
    from vexpress_rt.backends.tuning_record import forget_tuning
    from vexpress_rt.bundle.bundle import Bundle

    if forget_tuning(Bundle.open(folder)):
        return f"removed the tuning results of {folder} on this CPU: auto selects as without tuning"
    return f"there are no tuning results of {folder} on this CPU"
