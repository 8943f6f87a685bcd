"""The exceptions of this package. Those for faults derive from the matching builtin as well, such as ValueError."""

from __future__ import annotations


class VExpressError(Exception):
    """The base of all exceptions of this package.

    Messages name the value found, the expected one, and the remedy.
    """


class ConfigError(VExpressError, ValueError):
    """An option is unknown, of the wrong type, or outside its range."""


class InputError(VExpressError, ValueError):
    """An input (image, audio, keypoints, noise) cannot be used."""


class ImageError(InputError):
    """The photo cannot be decoded, is animated or truncated, or has an unusable size."""


class AudioError(InputError):
    """The speech cannot be decoded or has no samples."""


class VideoError(InputError):
    """A driving video cannot be decoded or has no picture."""


class KeypointError(InputError):
    """A keypoint file or array is unreadable, of the wrong shape, not finite, or outside the picture."""


class DepthError(InputError):
    """Depth maps are unreadable, of the wrong shape, not finite, or outside their range."""


class NoFaceError(InputError):
    """No face was found where one is needed."""


class BundleError(VExpressError):
    """A bundle of engines cannot be used."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """The folder contains no bundle, or the bundle lacks an engine."""


class BundleDamagedError(BundleError, ValueError):
    """A file of the bundle is missing or has another size or hash, or the manifest is malformed."""


class BundleVersionError(BundleError, ValueError):
    """The manifest has a schema that this version cannot read."""


class BackendError(VExpressError, RuntimeError):
    """An engine cannot be loaded or run, or the machine lacks the memory or the threads for it."""


class PlansMissingError(BackendError):
    """The bundle has no plans for this machine, and `rebuild="never"` forbids compiling them."""


class BackendMissingError(BackendError, ImportError):
    """The library of a provider is not installed."""


class CancelledError(VExpressError):
    """The caller cancelled the work before its end. Nothing partial is left behind."""


class OutputError(VExpressError, OSError):
    """The video cannot be written: no such folder, no permission, disk full, out of memory."""
