"""The builtin base of each error of the package, and a check of raised errors."""

from __future__ import annotations

import re

from vexpress_rt import (
    AudioError,
    BackendError,
    BackendMissingError,
    BundleDamagedError,
    BundleNotFoundError,
    BundleVersionError,
    ConfigError,
    DepthError,
    ImageError,
    InputError,
    KeypointError,
    NoFaceError,
    OutputError,
    PlansMissingError,
    VExpressError,
    VideoError,
)

BUILTINS = {
    ConfigError: ValueError,
    InputError: ValueError,
    ImageError: ValueError,
    AudioError: ValueError,
    VideoError: ValueError,
    KeypointError: ValueError,
    DepthError: ValueError,
    NoFaceError: ValueError,
    BundleNotFoundError: FileNotFoundError,
    BundleDamagedError: ValueError,
    BundleVersionError: ValueError,
    BackendError: RuntimeError,
    BackendMissingError: ImportError,
    PlansMissingError: RuntimeError,
    OutputError: OSError,
}


def check(error: VExpressError, kind: type[VExpressError], texts: tuple[str, ...]) -> None:
    """Assert that an error is exactly of a kind and of its builtin base, and that its message contains `texts`."""
    assert type(error) is kind
    assert isinstance(error, BUILTINS[kind])
    for text in texts:
        assert re.search(text, str(error)), str(error)
