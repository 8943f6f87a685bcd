"""Tuning records: which of them are valid for "auto", and which are ignored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.doubles.fakes import write_bundle
from tests.doubles.timed_providers import Clock, TimedProvider
from vexpress_rt.backends import tuning_record
from vexpress_rt.backends.registry import choose
from vexpress_rt.backends.tuning_record import KIND, TuningRecord, forget_tuning, read_tuning, write_tuning
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.utils.cpu_model import CpuModel
from vexpress_rt.utils.user_cache import entries, read_record, write_record

RECORD = TuningRecord(
    "swift", "measured: swift is 2.00 times as fast as plain", {"plain": "Plain 1.0", "swift": "Swift 1.0"}
)


@pytest.fixture(autouse=True)
def cache(user_cache: Path) -> Path:
    """An empty cache for each test."""
    return user_cache


@pytest.fixture
def swift() -> TimedProvider:
    return TimedProvider("swift")


@pytest.fixture
def plain() -> TimedProvider:
    return TimedProvider("plain")


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch, plain: TimedProvider, swift: TimedProvider, fake_bundle: Path) -> Bundle:
    """A bundle for which two providers could run, and a record that prefers the second."""
    Clock().install(monkeypatch, plain, swift)
    opened = Bundle.open(fake_bundle)
    assert write_tuning(opened, None, RECORD)
    return opened


def found(bundle: Bundle, *providers: TimedProvider, threads: int | None = None) -> TuningRecord | None:
    return read_tuning(bundle, threads, providers)


def test_a_record_is_read_as_it_was_written(bundle: Bundle, plain: TimedProvider, swift: TimedProvider) -> None:
    assert found(bundle, plain, swift) == RECORD
    choice = choose("auto", bundle)
    assert (choice.name, choice.reason) == ("swift", RECORD.reason)


def test_it_holds_for_one_bundle(bundle: Bundle, plain: TimedProvider, swift: TimedProvider, tmp_path: Path) -> None:
    other = Bundle.open(write_bundle(tmp_path / "other", ["denoiser", "vae_decoder"]))
    assert found(other, plain, swift) is None


def test_it_holds_for_one_cpu(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, plain: TimedProvider, swift: TimedProvider
) -> None:
    monkeypatch.setattr(tuning_record, "cpu_model", lambda: CpuModel("another"))
    assert found(bundle, plain, swift) is None


def test_it_holds_for_one_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, plain: TimedProvider, swift: TimedProvider
) -> None:
    limit = tuning_record.limit_threads(None).threads
    assert found(bundle, plain, swift, threads=limit) == RECORD
    slower = TuningRecord("plain", "measured: swift is not faster", {"plain": "Plain 1.0"})
    usable = os.cpu_count() or 1
    monkeypatch.setattr(f"{tuning_record.limit_threads.__module__}.usable_cpus", lambda: usable + 7)
    assert found(bundle, plain, swift, threads=limit + 3) is None
    write_tuning(bundle, limit + 3, slower)
    assert (found(bundle, plain, swift, threads=limit + 3), found(bundle, plain, swift, threads=limit)) == (
        slower,
        RECORD,
    )


@pytest.mark.parametrize("changed", ["plain", "swift"])
@pytest.mark.parametrize("version", ["2.0", None])
def test_it_holds_for_the_versions_of_the_libraries(
    bundle: Bundle, plain: TimedProvider, swift: TimedProvider, changed: str, version: str | None
) -> None:
    {"plain": plain, "swift": swift}[changed].version = version
    assert found(bundle, plain, swift) is None
    assert choose("auto", bundle).name == ("swift" if (changed, version) == ("plain", None) else "plain")


def test_it_holds_for_the_version_of_this_package(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, plain: TimedProvider, swift: TimedProvider
) -> None:
    monkeypatch.setattr(tuning_record, "__version__", "99")
    assert found(bundle, plain, swift) is None


def test_a_provider_that_is_gone_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, plain: TimedProvider, swift: TimedProvider
) -> None:
    assert found(bundle, plain) is None
    Clock().install(monkeypatch, plain)
    assert choose("auto", bundle).reason == "it is timed"


def test_a_provider_that_no_longer_opens_the_bundle_gives_way(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, swift: TimedProvider
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise tuning_record.BackendError("the abacus is stuck")

    monkeypatch.setattr(swift, "open", refuse)
    choice = choose("auto", bundle)
    assert choice.name == "plain"
    assert choice.reason == "it is timed; not swift, since the abacus is stuck"


def test_a_damaged_file_is_no_record(bundle: Bundle, plain: TimedProvider, swift: TimedProvider) -> None:
    (entry,) = entries()
    entry.path.write_bytes(entry.path.read_bytes()[:-30])
    assert found(bundle, plain, swift) is None
    assert choose("auto", bundle).name == "plain"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "package": st.just(tuning_record.__version__) | JSON,
        "provider": st.sampled_from(["swift", "plain", "x"]) | JSON,
        "reason": JSON,
        "libraries": st.dictionaries(st.sampled_from(["swift", "plain", "x"]), st.just("Swift 1.0") | JSON) | JSON,
    },
)


@given(ENTRY | JSON)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_content_is_ignored_or_a_sound_record(
    bundle: Bundle, plain: TimedProvider, swift: TimedProvider, entry: Any
) -> None:
    key = tuning_record._key(bundle)
    write_record(KIND, key, {str(tuning_record.limit_threads(None).threads): entry})
    record = found(bundle, plain, swift)
    if record is not None:
        assert record.provider in record.libraries
        assert record.reason.isprintable()
    choose("auto", bundle)


def test_a_reason_that_could_obey_a_terminal_is_ignored(
    bundle: Bundle, plain: TimedProvider, swift: TimedProvider
) -> None:
    write_tuning(bundle, None, TuningRecord("swift", "\x1b[2J", RECORD.libraries))
    assert found(bundle, plain, swift) is None


def test_all_records_of_a_bundle_are_removed(bundle: Bundle, plain: TimedProvider, swift: TimedProvider) -> None:
    write_tuning(bundle, 1, RECORD)
    assert forget_tuning(bundle)
    assert not forget_tuning(bundle)
    assert found(bundle, plain, swift) is None
    assert entries() == []


def test_without_a_cache_nothing_is_stored(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    monkeypatch.setenv("VEXPRESS_RT_CACHE_DIR", "off")
    assert not write_tuning(bundle, None, RECORD)
    assert not forget_tuning(bundle)
    assert choose("auto", bundle).name == "plain"


def test_a_record_is_small_and_readable(bundle: Bundle) -> None:
    record = read_record(KIND, tuning_record._key(bundle))
    assert record is not None
    (entry,) = record.values()
    assert sorted(entry) == ["libraries", "package", "provider", "reason"]
    assert len(json.dumps(record)) < 1000
