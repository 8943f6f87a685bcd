"""Errors of the exporter."""

from __future__ import annotations

from vexpress_rt.errors import VExpressError

DOWNLOAD_COMMAND = "python -m export.download"  # the remedy for missing weights


class ExportError(VExpressError, RuntimeError):
    """An engine cannot be exported, or its results differ from those of its torch module."""


class CheckpointError(VExpressError, ValueError):
    """A checkpoint directory is incomplete, unreadable, or does not fit its configuration."""


class DownloadError(VExpressError, OSError):
    """The released checkpoint cannot be downloaded, or the downloaded files differ from those of the hub."""
