"""Arguments that are refused before a kernel is launched, and errors of launches that CUDA refuses. Needs no GPU."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.kernel_cases import HostArena, HostMemory, NoStream, Step, host_kernels
from vexpress_rt.errors import BackendError, BackendMissingError, InputError
from vexpress_rt.native import device_kernels
from vexpress_rt.native.device_kernels import Kernels
from vexpress_rt.native.latent_step import SlotUpdate

ARENA = HostArena()


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return host_kernels()


PREDICTIONS = HostMemory(np.zeros((3, 4), np.float32))
GOOD_STEP = Step.random(frames=3, values=4, spare_slots=0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"updates": []}, "0 updates .* at least one"),
        (
            {"updates": [SlotUpdate(0, 0, 1), SlotUpdate(0, 0, 1), SlotUpdate(1, 0, 1)]},
            r"slots \[0, 0, 1\].*a slot of its own",
        ),
        ({"updates": [SlotUpdate(3, 0, 1)]}, "slot=3.*a slot of 0 to 2"),
        ({"updates": [SlotUpdate(-1, 0, 1)]}, "slot=-1"),
        ({"updates": [SlotUpdate(0, 2, 2)]}, "accumulated=2, coverage=2.*fewer accumulated"),
        ({"updates": [SlotUpdate(0, 0, 0)]}, "coverage=0"),
        ({"updates": [SlotUpdate(0, 0, 2**24 + 1)]}, "a coverage of 1 to 16777216"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"scale": 1e39}, "scale is 1e[+]39; expected a number that float32 holds"),
        ({"coefficients": ((float("inf"), 0.0),)}, "coefficients are .*inf.*expected numbers that float32 holds"),
        (
            {"coefficients": ((0.9, 0.1, 0.2),)},
            "a row for each element of a frame's state, 1 to 3, with a number for each",
        ),
        ({"coefficients": ()}, "a row for each element"),
        ({"coefficients": ((0.5,) * 5,) * 4}, "a row for each element of a frame's state, 1 to 3"),
        ({"coefficients": ((0.5,) * 3,) * 2}, "state is 48 bytes .* at least 96 bytes"),
        ({"conditional": GOOD_STEP.conditional[:2]}, "conditional is 32 bytes.*at least 48 bytes"),
        ({"unconditional": GOOD_STEP.conditional[:2]}, "unconditional is 32 bytes"),
        ({"totals": GOOD_STEP.totals[:2]}, "a slot of 0 to 1"),
        ({"state": GOOD_STEP.state[:, :2]}, "state is 32 bytes .* at least 48 bytes"),
        ({"totals": np.zeros((3, 0), np.float32)}, "values is 0; expected 1 to 2147483647"),
    ],
)
def test_steps_that_do_not_fit_are_refused(kernels: Kernels, changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        replace(GOOD_STEP, **changes).run(kernels, ARENA)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"frame": 3}, "frame is 3; expected 0 to 2"),
        ({"frame": -1}, "frame is -1; expected 0 to 2"),
        ({"weights": np.zeros(0, np.float32)}, "frame is 1; expected 0 to -1"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"values": 0}, "values is 0; expected 1 to 2147483647"),
        ({"values": 5}, "out is 48 bytes .* at least 60 bytes"),
        ({"out": HostMemory(np.zeros(11, np.float32))}, "out is 44 bytes .* at least 48 bytes"),
        ({"out": PREDICTIONS}, "out and conditional overlap"),
        ({"expected": HostMemory(np.zeros(3, np.float32))}, "expected is 12 bytes .* at least 16 bytes"),
        ({"unconditional": HostMemory(np.zeros(11, np.float32))}, "unconditional is 44 bytes"),
    ],
)
def test_corrections_that_do_not_fit_are_refused(kernels: Kernels, changes: dict[str, Any], complaint: str) -> None:
    given: dict[str, Any] = {
        "unconditional": None, "conditional": PREDICTIONS, "expected": HostMemory(np.zeros(4, np.float32)),
        "out": HostMemory(np.zeros((3, 4), np.float32)), "values": 4, "frame": 1,
        "weights": np.ones(3, np.float32), "scale": 2.0, "stream": NoStream(),
    }  # fmt: skip
    with pytest.raises(InputError, match=complaint):
        kernels.correct_predictions(**given | changes)


FRAME = HostMemory(np.zeros((4, 6, 3), np.uint8))
OUT = HostMemory(np.zeros((4, 6, 3), np.uint8))
NULL = SimpleNamespace(pointer=0, bytes=72)
SHORT = SimpleNamespace(pointer=FRAME.pointer, bytes=71)


@pytest.mark.parametrize(
    ("memories", "size", "complaint"),
    [
        ((FRAME, FRAME, NULL, OUT), (4, 6), "following is 72 bytes at address 0x0.*allocated and not freed"),
        ((SHORT, FRAME, FRAME, OUT), (4, 6), "previous is 71 bytes .* at least 72 bytes"),
        ((FRAME, FRAME, FRAME, FRAME), (4, 6), "out and previous overlap"),
        ((FRAME, FRAME, FRAME, OUT), (0, 6), "height is 0; expected 1 to 65536"),
        ((FRAME, FRAME, FRAME, OUT), (4, 65537), "width is 65537"),
    ],
)
def test_frames_that_do_not_fit_are_refused_by_the_median(
    kernels: Kernels, memories: tuple[HostMemory, ...], size: tuple[int, int], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        kernels.median_3x3x3(*memories, height=size[0], width=size[1], stream=NoStream())


@pytest.mark.parametrize(
    ("size", "out", "complaint"),
    [
        ((3, 6), OUT, "3 x 6 pixels .* even sizes"),
        ((4, 5), OUT, "4 x 5 pixels"),
        ((0, 6), OUT, "height is 0"),
        ((4, 6), SimpleNamespace(pointer=OUT.pointer, bytes=35), "out is 35 bytes .* at least 36 bytes"),
        ((4, 6), FRAME, "out and frame overlap"),
    ],
)
def test_frames_that_do_not_fit_are_refused_by_nv12(
    kernels: Kernels, size: tuple[int, int], out: HostMemory, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        kernels.rgb_to_nv12(FRAME, out, height=size[0], width=size[1], stream=NoStream())


def test_float_memory_at_an_odd_address_is_refused(kernels: Kernels) -> None:
    odd = SimpleNamespace(pointer=FRAME.pointer + 1, bytes=64)
    with pytest.raises(InputError, match=r"state is 64 bytes .* a multiple of 4"):
        kernels.guided_step(
            odd, OUT, None, FRAME,
            values=1, slots=1, updates=[SlotUpdate(0, 0, 1)], scale=1, coefficients=((1, 0),), stream=NoStream(),
        )  # fmt: skip


def test_refused_launch_is_a_backend_error_that_tells_what_cuda_said() -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("cudaErrorInvalidResourceHandle: invalid resource handle")

    kernels = Kernels(SimpleNamespace(rgb_to_nv12=refuse))  # type: ignore[arg-type]
    with pytest.raises(BackendError, match=r"rgb_to_nv12: cudaErrorInvalidResourceHandle.*nvidia-smi"):
        kernels.rgb_to_nv12(FRAME, OUT, height=4, width=6, stream=NoStream())


def test_kernels_that_were_not_built_are_an_error_that_says_how_to_build_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, device_kernels.EXTENSION, None)
    with pytest.raises(BackendMissingError, match="nvcc 12 or newer on PATH and VEXPRESS_RT_CUDA=ON"):
        device_kernels.load()
