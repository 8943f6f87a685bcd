"""The one tree of exceptions. Each also derives from the builtin that a caller would expect."""

from __future__ import annotations


class VExpressError(Exception):
    """Base of every error that this package raises on purpose.

    The message names the value found, what was expected, and the remedy.
    """


class ConfigError(VExpressError, ValueError):
    """An option is unknown, of the wrong type, or outside its range."""


class InputError(VExpressError, ValueError):
    """An input (image, audio, keypoints, noise) cannot be used as it is."""


class ImageError(InputError):
    """The portrait cannot be decoded, is animated, truncated, or of an unusable size."""


class AudioError(InputError):
    """The speech cannot be decoded or holds no samples."""


class VideoError(InputError):
    """A driving video cannot be decoded or holds no picture."""


class KeypointError(InputError):
    """A keypoint file or array is unreadable, misshapen, not finite, or outside the picture."""


class NoFaceError(InputError):
    """No face was found where one is needed."""


class BundleError(VExpressError):
    """A bundle of engines cannot be used."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """The folder holds no bundle, or the bundle lacks an engine that is needed."""


class BundleDamagedError(BundleError, ValueError):
    """A file of the bundle is missing, of another size or hash, or the manifest is malformed."""


class BundleVersionError(BundleError, ValueError):
    """The manifest has a schema that this version does not read."""


class BackendError(VExpressError, RuntimeError):
    """An engine cannot be loaded or run, or the machine lacks the memory or the threads for it."""


class PlansMissingError(BackendError):
    """The bundle is compiled for other machines than this one, and compiling it for this one now is forbidden."""


class BackendMissingError(BackendError, ImportError):
    """The library that runs this bundle's engines is not installed."""


class OutputError(VExpressError, OSError):
    """The video cannot be written: no such folder, no permission, disk full, out of memory."""
