"""Tuning: which calls count, which results must agree, and what is stored for "auto"."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vexpress_rt
from tests.doubles.fakes import write_bundle
from tests.doubles.timed_providers import Clock, TimedProvider
from vexpress_rt.backends import registry, tuning
from vexpress_rt.backends.registry import choose
from vexpress_rt.backends.tuning import Tuning, compare, disagreement, random_inputs, tune
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.default_bundle import shipped_bundle
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec
from vexpress_rt.bundle.manifest import read_manifest, write_manifest
from vexpress_rt.errors import BackendError, BundleNotFoundError, ConfigError

# Settings of a bundle that recommends none: 25 steps for 8 - 4 new frames of a window.
DENOISER_CALLS = 25 / 4


@pytest.fixture(autouse=True)
def cache(user_cache: Path) -> Path:
    """An empty cache for each test."""
    return user_cache


@pytest.fixture
def plain() -> TimedProvider:
    return TimedProvider("plain", denoiser=0.1, vae_decoder=0.01)


@pytest.fixture
def swift() -> TimedProvider:
    return TimedProvider("swift", denoiser=0.08, vae_decoder=0.01)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, plain: TimedProvider, swift: TimedProvider) -> Clock:
    made = Clock()
    made.install(monkeypatch, plain, swift)
    return made


def taken(bundle: Path) -> str:
    return choose("auto", Bundle.open(bundle)).name


def test_auto_takes_the_provider_that_was_measured_faster(clock: Clock, fake_bundle: Path) -> None:
    assert taken(fake_bundle) == "plain"
    tuning_ = tune(fake_bundle)
    choice = choose("auto", Bundle.open(fake_bundle))
    ratio = (DENOISER_CALLS * 0.1 + 0.01) / (DENOISER_CALLS * 0.08 + 0.01)
    assert (tuning_.provider, choice.name, tuning_.stored) == ("swift", "swift", True)
    assert choice.reason.startswith("measured on ")
    assert f"swift is {ratio:.2f} times as fast as plain" in choice.reason
    assert tuning_.frame == pytest.approx({"plain": DENOISER_CALLS * 0.1 + 0.01, "swift": DENOISER_CALLS * 0.08 + 0.01})
    assert tuning_.calls["denoiser"] == pytest.approx({"plain": 0.1, "swift": 0.08})


def test_nothing_is_measured_without_a_call_to_tune(clock: Clock, fake_bundle: Path) -> None:
    choose("auto", Bundle.open(fake_bundle))
    assert clock.log == []


def test_providers_take_turns_and_each_begins_every_other_round(clock: Clock, fake_bundle: Path) -> None:
    tune(fake_bundle)
    names = [name for name, engine in clock.log if engine == "denoiser"]
    warm_up, counted = names[:4], names[4:]
    assert warm_up == ["plain", "swift"] * 2
    assert counted == (["plain", "swift", "swift", "plain"] * len(counted))[: len(counted)]
    assert tuning.ROUNDS[0] <= len(counted) / 2 <= tuning.ROUNDS[1]


def test_slow_engines_have_few_rounds(
    clock: Clock, plain: TimedProvider, swift: TimedProvider, fake_bundle: Path
) -> None:
    for provider in (plain, swift):
        provider.seconds = TimedProvider("slow", denoiser=20.0, vae_decoder=0.001).seconds
    tune(fake_bundle)
    assert clock.log.count(("plain", "denoiser")) == 2 + tuning.ROUNDS[0]
    assert clock.log.count(("plain", "vae_decoder")) == 2 + tuning.ROUNDS[1]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.096, "plain"),  # 4 % faster: within the margin
        (0.094, "swift"),
        (0.12, "plain"),
        ([0.05, 0.13, 0.13, 0.05, 0.05, 0.13, 0.05], "plain"),  # the median is twice as fast, a quarter is slower
    ],
)
def test_faster_means_by_more_than_the_margin_and_the_spread(
    clock: Clock, swift: TimedProvider, fake_bundle: Path, seconds: float | list[float], expected: str
) -> None:
    swift.seconds = TimedProvider("", denoiser=seconds, vae_decoder=0.01).seconds
    found = tune(fake_bundle)
    assert (found.provider, taken(fake_bundle)) == (expected, expected)
    if expected == "plain":
        reason = choose("auto", Bundle.open(fake_bundle)).reason
        assert reason.startswith("it is timed; measured on ")
        assert "swift is not faster: " in reason


def test_a_new_result_replaces_the_old_one(clock: Clock, swift: TimedProvider, fake_bundle: Path) -> None:
    tune(fake_bundle)
    swift.seconds = TimedProvider("", denoiser=0.2, vae_decoder=0.01).seconds
    tune(fake_bundle)
    assert taken(fake_bundle) == "plain"


def test_the_fastest_of_several_is_taken(
    monkeypatch: pytest.MonkeyPatch, plain: TimedProvider, swift: TimedProvider, fake_bundle: Path
) -> None:
    fastest = TimedProvider("fastest", denoiser=0.05, vae_decoder=0.01)
    Clock().install(monkeypatch, plain, fastest, swift)
    assert tune(fake_bundle).provider == taken(fake_bundle) == "fastest"


@pytest.mark.parametrize(("engine", "error"), [("denoiser", 1e-3), ("vae_decoder", 2)])
def test_a_provider_with_other_results_is_not_taken(
    clock: Clock, swift: TimedProvider, fake_bundle: Path, caplog: pytest.LogCaptureFixture, engine: str, error: float
) -> None:
    swift.error[engine] = error
    found = tune(fake_bundle)
    assert found.provider == taken(fake_bundle) == "plain"
    assert "swift is not used, since " in found.reason
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().startswith("the results of swift do not agree with those of plain: ")


@pytest.mark.parametrize(("engine", "error"), [("denoiser", 1e-5), ("vae_decoder", 1)])
def test_rounding_is_no_other_result(
    clock: Clock, swift: TimedProvider, fake_bundle: Path, engine: str, error: float
) -> None:
    swift.error[engine] = error
    assert tune(fake_bundle).provider == "swift"


@pytest.mark.parametrize("broken", ["denoiser", "vae_decoder"])
def test_a_provider_that_fails_is_left_out(
    monkeypatch: pytest.MonkeyPatch, plain: TimedProvider, swift: TimedProvider, fake_bundle: Path, broken: str
) -> None:
    weak = TimedProvider("weak", denoiser=0.001, vae_decoder=0.001)
    weak.broken.add(broken)
    Clock().install(monkeypatch, plain, weak, swift)
    found = tune(fake_bundle)
    assert found.provider == "swift"
    assert f"weak failed: {broken} is broken" in found.reason
    assert list(found.frame) == ["plain", "swift"]


def test_tuning_needs_two_providers(clock: Clock, swift: TimedProvider, fake_bundle: Path) -> None:
    swift.version = None
    with pytest.raises(
        BackendError, match=r"nothing to compare: plain can run .*: not swift, since swift is not installed"
    ):
        tune(fake_bundle)
    swift.version = "1.0"
    swift.broken.add("vae_decoder")
    with pytest.raises(BackendError, match="nothing to compare: plain can run"):
        tune(fake_bundle)
    assert taken(fake_bundle) == "plain"


def test_engines_are_closed_before_the_next_are_loaded(
    clock: Clock, plain: TimedProvider, swift: TimedProvider, fake_bundle: Path
) -> None:
    swift.broken.add("vae_decoder")
    with pytest.raises(BackendError):
        tune(fake_bundle)
    assert all(engine.closed for provider in (plain, swift) for engine in provider.engines)


def test_a_provider_that_is_not_tunable_is_neither_measured_nor_passed_by(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, plain: TimedProvider, swift: TimedProvider, fake_bundle: Path
) -> None:
    tune(fake_bundle)

    class Accelerator(TimedProvider):
        tunable = False

    accelerator = Accelerator("accelerator")
    monkeypatch.setattr(registry, "PROVIDERS", (accelerator, plain, swift))
    assert taken(fake_bundle) == "accelerator"
    accelerator.version = None
    choice = choose("auto", Bundle.open(fake_bundle))
    assert choice.name == "swift"
    assert choice.reason.endswith("; not accelerator, since accelerator is not installed")
    assert accelerator.engines == []


def test_a_named_provider_a_device_or_a_precision_comes_before_the_record(clock: Clock, fake_bundle: Path) -> None:
    tune(fake_bundle)
    assert choose("plain", Bundle.open(fake_bundle)).name == "plain"
    assert choose("auto", Bundle.open(fake_bundle), precision="fp32").name == "plain"


@pytest.mark.parametrize(("busy", "refused"), [(0.0, False), (0.4, False), (1.9, True)])
def test_a_busy_machine_is_refused_unless_forced(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, fake_bundle: Path, busy: float, refused: bool
) -> None:
    monkeypatch.setattr(tuning.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(tuning, "limit_threads", lambda threads: dataclasses.replace(LIMIT, threads=2))
    monkeypatch.setattr(tuning, "busy_cpus", lambda: busy)
    if refused:
        with pytest.raises(BackendError, match=r"other programs keep 1\.9 of 2 CPUs busy; expected 1\.5 CPUs free"):
            tune(fake_bundle)
        assert taken(fake_bundle) == "plain"
    assert tune(fake_bundle, force=refused).provider == "swift"


LIMIT = tuning.limit_threads(1)


def test_a_machine_that_becomes_busy_is_refused_too(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, fake_bundle: Path
) -> None:
    loads = iter([0.0, 1e6])
    monkeypatch.setattr(tuning, "busy_cpus", lambda: next(loads))
    with pytest.raises(BackendError, match="other programs keep"):
        tune(fake_bundle)
    assert taken(fake_bundle) == "plain"


def test_tuning_runs_on_a_system_without_a_measure_of_load(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, fake_bundle: Path
) -> None:
    monkeypatch.setattr(tuning, "busy_cpus", lambda: None)
    assert tune(fake_bundle).provider == "swift"


def test_tuning_that_needs_more_memory_than_is_free_is_refused(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, fake_bundle: Path
) -> None:
    monkeypatch.setattr(tuning, "free_memory", lambda: 10)
    with pytest.raises(ConfigError, match=r"tuning needs .*denoiser in 2 libraries at once.*: close other programs"):
        tune(fake_bundle)


def test_a_bundle_without_the_decoder_is_refused(clock: Clock, tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="vae_decoder"):
        tune(write_bundle(tmp_path / "half", ["denoiser"]))
    assert clock.log == []


def test_the_denoiser_is_the_one_that_the_bundles_settings_run(clock: Clock, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    write_manifest(folder, dataclasses.replace(read_manifest(folder), recommended={"guidance_scale": 1.0, "steps": 2}))
    for provider in registry.PROVIDERS:
        assert isinstance(provider, TimedProvider)
        provider.seconds["denoiser_cond"] = provider.seconds["denoiser"]
    found = tune(folder)
    assert list(found.calls) == ["denoiser_cond", "vae_decoder"]
    assert found.frame["plain"] == pytest.approx(2 / 4 * 0.1 + 0.01)


def test_progress_is_reported_and_its_exceptions_end_tuning(clock: Clock, fake_bundle: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    tune(fake_bundle, progress=lambda *call: calls.append(call))
    assert calls == [("tune", 0, 2), ("tune", 1, 2), ("tune", 2, 2)]

    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(fake_bundle, progress=interrupt)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"force": 1}, {"progress": 3}])
def test_wrong_arguments_are_refused(clock: Clock, fake_bundle: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        tune(fake_bundle, **wrong)  # type: ignore[arg-type]


def test_a_result_that_is_not_stored_says_so(monkeypatch: pytest.MonkeyPatch, clock: Clock, fake_bundle: Path) -> None:
    monkeypatch.setenv("VEXPRESS_RT_CACHE_DIR", "off")
    found = tune(fake_bundle)
    assert (found.provider, found.stored, taken(fake_bundle)) == ("swift", False, "plain")
    assert "the user's cache does not store the result" in found.describe()


def test_the_description_is_a_table_and_the_outcome(clock: Clock, fake_bundle: Path) -> None:
    head, *table, outcome = tune(fake_bundle, threads=1).describe().splitlines()
    assert head.endswith(", 1 thread; median times of alternating calls")
    assert [row.split("  ")[0] for row in table] == ["milliseconds", "denoiser", "vae_decoder", "a frame of video"]
    assert [row.split()[-2:] for row in table[:3]] == [["plain", "swift"], ["100.0", "80.0"], ["10.0", "10.0"]]
    assert len({len(row) for row in table}) == 1
    assert outcome.startswith("auto selects swift from now on: measured on ")


def test_it_is_a_function_of_the_package() -> None:
    assert (vexpress_rt.tune, vexpress_rt.Tuning) == (tune, Tuning)


@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=2, max_size=20),
    st.floats(0.1, 100),
)
def test_a_comparison_has_no_unit_and_its_quartile_is_no_better_than_its_median(
    pairs: list[tuple[float, float]], unit: float
) -> None:
    def found(scale: float) -> tuning.Comparison:
        seconds = {"e": {"a": [scale * a for a, _ in pairs], "b": [scale * b for _, b in pairs]}}
        return compare(seconds, {"e": 3.0}, "a", "b")

    assert found(unit).ratio == pytest.approx(found(1).ratio)
    assert found(1).least <= found(1).ratio * (1 + 1e-9)


def test_outputs_that_are_not_numbers_do_not_agree() -> None:
    good, bad = {"x": np.ones(3, np.float32)}, {"x": np.array([1, np.nan, 1], np.float32)}
    assert "nan" in disagreement(good, bad, 1e-4)
    assert disagreement(good, good, 0.0) == ""
    assert disagreement({"x": np.zeros(3)}, {"x": np.zeros(3)}, 0.0) == ""


def test_inputs_are_the_same_each_time_and_of_every_dtype() -> None:
    tensors = tuple(TensorSpec(dtype, ("N", "3"), (None, 3), dtype) for dtype in ("uint8", "float32", "float16"))
    first, second = (random_inputs(EngineSpec("engine", tensors, ())) for _ in range(2))
    for name, array in first.items():
        assert (array.dtype, array.shape) == (name, (1, 3))
        np.testing.assert_array_equal(array, second[name])


def test_both_libraries_are_measured_on_the_shipped_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real libraries agree, and "auto" follows the outcome. Few rounds: the times do not matter here."""
    monkeypatch.setattr(tuning, "ROUNDS", (2, 2))
    found = tune(threads=1, force=True)
    assert list(found.frame) == ["cpu", "openvino"]
    assert "is not used" not in found.reason
    bundle = Bundle.open(shipped_bundle())
    choice = choose("auto", bundle, threads=1)
    assert choice.name == found.provider
    assert found.reason in choice.reason
