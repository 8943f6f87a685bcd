"""A fake GPU with 1 MiB and this project's kernels, for the stages that compute on one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.doubles import fake_kernels
from tests.doubles.fake_cuda import FakeCuda, installed
from vexpress_rt.backends.cuda.executor import Executor


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    for fake in installed(monkeypatch, 1 << 20):
        fake_kernels.install(monkeypatch, fake)
        yield fake
        assert fake.machine.violations == []


@pytest.fixture
def executor(cuda: FakeCuda) -> Iterator[Executor]:
    with Executor() as made:
        yield made
