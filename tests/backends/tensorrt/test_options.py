"""Options of builds, and the sizes of open dims."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.factories import model_config
from vexpress_rt.backends.tensorrt.options import EngineOptions, Range, audio_range
from vexpress_rt.bundle.engine_spec import TensorSpec, VideoShape, engine_specs
from vexpress_rt.errors import ConfigError


@pytest.mark.parametrize("level", [-1, 6, 2.0, True, "3", None])
def test_a_level_out_of_range_is_refused(level: Any) -> None:
    with pytest.raises(ConfigError, match=rf"optimization_level is {level!r}; expected 0 \(fastest build\) to 5"):
        EngineOptions(optimization_level=level)


@pytest.mark.parametrize("limit", [0, -1, 1 << 19, (1 << 50) + 1, 1e9, True])
def test_a_workspace_out_of_range_is_refused(limit: Any) -> None:
    with pytest.raises(ConfigError, match=rf"workspace_bytes is {limit!r}; expected 1048576 .* to 1125899906842624"):
        EngineOptions(workspace_bytes=limit)


@pytest.mark.parametrize("sizes", [(0, 1, 2), (3, 2, 4), (1, 5, 4)])
def test_sizes_out_of_order_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match=f"are {sizes[0]}, {sizes[1]}, {sizes[2]}; expected the smallest"):
        Range(*sizes)


def test_one_run_of_the_audio_encoder_takes_up_to_a_minute() -> None:
    assert audio_range() == Range(400, 80_000, 960_000)
    assert audio_range(model_config(audio_minimum_samples=720, sample_rate=8000)) == Range(720, 40_000, 480_000)
    assert audio_range(typical=10, maximum=90) == Range(400, 160_000, 1_440_000)


def test_every_open_dim_of_every_engine_has_sizes() -> None:
    specs = engine_specs(model_config(), VideoShape(64, 64, 8))
    tensors = [tensor for spec in specs.values() for tensor in spec.inputs if None in tensor.shape]
    assert [EngineOptions().shapes(tensor) for tensor in tensors] == [((1, 400), (1, 80_000), (1, 960_000))]


def test_an_open_dim_without_sizes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"x: float32 \(F=2, T\) leaves T open; expected .* which has none"):
        EngineOptions(ranges={}).shapes(TensorSpec("x", ("F", "T"), (2, None), "float32"))


@given(st.lists(st.none() | st.integers(1, 100), min_size=1, max_size=5), st.lists(st.integers(1, 99), min_size=3))
def test_open_dims_have_the_sizes_of_their_range_and_others_their_own(sizes: list[int | None], ends: list[int]) -> None:
    low, typical, high = sorted(ends)[:3]
    tensor = TensorSpec("x", ("N",) * len(sizes), tuple(sizes), "float32")
    shapes = EngineOptions(ranges={"N": Range(low, typical, high)}).shapes(tensor)
    for shape, open_size in zip(shapes, (low, typical, high), strict=True):
        assert shape == tuple(open_size if size is None else size for size in sizes)


def test_plain_values_hold_what_changes_an_engine_and_nothing_else() -> None:
    options = EngineOptions(optimization_level=5, timing_cache=Path("here"))
    assert json.loads(json.dumps(options.to_json())) == {
        "optimization_level": 5,
        "workspace_bytes": None,
        "hardware_compatible": False,
        "tf32": False,
        "ranges": {"N": {"minimum": 400, "typical": 80_000, "maximum": 960_000}},
    }


def test_options_read_back_as_they_were_written_but_for_the_file_of_timings() -> None:
    options = EngineOptions(
        optimization_level=1, workspace_bytes=1 << 21, hardware_compatible=True,
        tf32=True, ranges={"N": Range(1, 2, 3), "M": Range(4, 5, 6)}, timing_cache=Path("here"),
    )  # fmt: skip
    assert EngineOptions.from_text(options.to_text()) == dataclasses.replace(options, timing_cache=None)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.clear(),
        lambda data: data.update(timing_cache="/etc/passwd"),
        lambda data: data.update(optimization_level=9),
        lambda data: data.update(optimization_level=[3]),
        lambda data: data.update(tf32=1),
        lambda data: data.update(workspace_bytes="all"),
        lambda data: data.update(ranges=[]),
        lambda data: data.update(ranges={"N": [1, 2, 3]}),
        lambda data: data["ranges"]["N"].update(maximum=1 << 29),
        lambda data: data["ranges"]["N"].update(maximum=1e6),
        lambda data: data["ranges"]["N"].update(minimum=10**6),
        lambda data: data["ranges"]["N"].update(more=1),
    ],
)
def test_recorded_options_that_are_none_are_refused(change: Callable[[dict[str, Any]], object]) -> None:
    data = EngineOptions().to_json()
    change(data)
    with pytest.raises(ConfigError, match="are no options of TensorRT's builder"):
        EngineOptions.from_text(json.dumps(data))


@pytest.mark.parametrize("text", ["", "[]", "3", "nonsense", "[" * 100_000])
def test_a_text_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="are no options of TensorRT's builder"):
        EngineOptions.from_text(text)


def test_a_recorded_workspace_of_any_number_of_digits_is_refused() -> None:
    text = EngineOptions(workspace_bytes=1 << 20).to_text().replace(str(1 << 20), str(10**3000))
    with pytest.raises(ConfigError, match=r"the number '1000.*expected at most 19 digits"):
        EngineOptions.from_text(text)


@pytest.mark.parametrize("text", ["\x1b[31m", "\ud800"])
@pytest.mark.parametrize("place", ["dim", "size"])
def test_names_in_recorded_options_are_refused_and_shown_escaped(place: str, text: str) -> None:
    data = EngineOptions().to_json()
    if place == "dim":
        data["ranges"][text] = data["ranges"]["N"]
    else:
        data["ranges"]["N"][text] = 1
    with pytest.raises(ConfigError, match="are no options of TensorRT's builder") as told:
        EngineOptions.from_text(json.dumps(data))
    assert str(told.value).isprintable()


def test_an_option_that_is_recorded_twice_is_refused() -> None:
    text = EngineOptions().to_text().replace('"tf32": false', '"tf32": false, "tf32": true')
    with pytest.raises(ConfigError, match="keys that are not distinct"):
        EngineOptions.from_text(text)
