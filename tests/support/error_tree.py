"""Which builtin each error of the package resembles, and what is asked of every one that is raised."""

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
    """Assert that an error is of exactly this kind, is its builtin too, and that its message holds `texts`."""
    assert type(error) is kind
    assert isinstance(error, BUILTINS[kind])
    for text in texts:
        assert re.search(text, str(error)), str(error)
