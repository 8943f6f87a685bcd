"""What can go wrong before an engine exists."""

from __future__ import annotations

from vexpress_rt.errors import VExpressError

DOWNLOAD_COMMAND = "python -m export.download"  # the remedy for weights that are missing


class ExportError(VExpressError, RuntimeError):
    """An engine cannot be exported, or it does not compute what its torch module computes."""


class CheckpointError(VExpressError, ValueError):
    """A checkpoint directory is incomplete, unreadable, or does not fit its configuration."""


class DownloadError(VExpressError, OSError):
    """The released checkpoint cannot be fetched, or what was fetched is not what the hub states."""
