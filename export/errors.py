"""What can go wrong before an engine exists."""

from __future__ import annotations

from vexpress_rt.errors import VExpressError


class ExportError(VExpressError, RuntimeError):
    """An engine cannot be exported, or it does not compute what its torch module computes."""


class CheckpointError(VExpressError, ValueError):
    """A checkpoint directory is incomplete, unreadable, or does not fit its configuration."""
