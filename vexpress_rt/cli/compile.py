"""`vexpress-rt compile`: compile a bundle's plans for this machine."""

from __future__ import annotations

import argparse
import sys

from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.cli.progress import CommandProgress
from vexpress_rt.cli.terminal import open_stream
from vexpress_rt.utils.signals import GracefulShutdown


def run_compile(options: argparse.Namespace, shutdown: GracefulShutdown) -> str:
    """Compile the plans that the bundle lacks.

    Args:
        options: The parsed flags.
        shutdown: Checked between steps.

    Returns:
        The text to print.

    Raises:
        VExpressError: As `Provider.compile` and `Bundle.open` do.
    """
    from vexpress_rt.backends.registry import find_target_provider

    with CommandProgress(open_stream(sys.stderr)) as progress:

        def report(stage: str, done: int, total: int) -> None:
            shutdown.check()
            progress(stage, done, total)

        bundle = Bundle.open(options.bundle)
        machine = find_target_provider(bundle.manifest.target).compile(bundle, report)
    return f"{options.bundle} has plans for {machine}"
