"""Methods that pass their arguments on show those arguments."""

from __future__ import annotations

import inspect

import pytest

from vexpress_rt import Generator


@pytest.mark.parametrize(
    ("method", "asynchronous"),
    [("stream", "astream"), ("generate", "agenerate"), ("prepare", "aprepare"), ("live", "alive")],
)
def test_a_method_for_coroutines_has_the_arguments_of_the_one_that_blocks(method: str, asynchronous: str) -> None:
    expected, found = (inspect.signature(getattr(Generator, name)) for name in (method, asynchronous))
    assert found.parameters == expected.parameters
    assert "config" in found.parameters or method == "prepare"
    assert found.return_annotation in ("AsyncFrameStream", "Video", "Portrait", "AsyncLiveSession")
