"""`vexpress-rt tune`: the table that it prints, the provider that auto selects then, and --forget."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doubles.timed_providers import Clock, TimedProvider
from vexpress_rt.__main__ import main
from vexpress_rt.backends import tuning
from vexpress_rt.backends.registry import choose
from vexpress_rt.bundle import default_bundle
from vexpress_rt.bundle.bundle import Bundle


@pytest.fixture(autouse=True)
def providers(monkeypatch: pytest.MonkeyPatch, user_cache: Path) -> None:
    """Two providers, of which the second is faster."""
    plain = TimedProvider("plain", denoiser=0.1, vae_decoder=0.01)
    swift = TimedProvider("swift", denoiser=0.05, vae_decoder=0.01)
    Clock().install(monkeypatch, plain, swift)


def taken(bundle: Path) -> str:
    return choose("auto", Bundle.open(bundle)).name


def test_the_table_and_the_outcome_are_printed(fake_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--engines", str(fake_bundle)]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[2].split() == ["denoiser", "100.0", "50.0"]
    assert "auto selects swift from now on: measured on " in captured.out
    assert "tune: 100%" in captured.err
    assert taken(fake_bundle) == "swift"


def test_forget_returns_to_the_selection_without_tuning(fake_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tune", "--engines", str(fake_bundle)])
    assert main(["tune", "--engines", str(fake_bundle), "--forget"]) == 0
    assert taken(fake_bundle) == "plain"
    assert main(["tune", "--engines", str(fake_bundle), "--forget"]) == 0
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first == f"removed the tuning results of {fake_bundle} on this CPU: auto selects as without tuning"
    assert second == f"there are no tuning results of {fake_bundle} on this CPU"


def test_the_bundle_is_the_shipped_one_unless_it_is_named(
    fake_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(default_bundle, "CANDIDATES", (fake_bundle,))
    assert main(["tune", "--threads", "1"]) == 0
    captured = capsys.readouterr()
    assert f"no bundle was named: taking the small one that ships with vexpress-rt, {fake_bundle}" in captured.err
    assert ", 1 thread; " in captured.out


def test_a_busy_machine_is_an_error_unless_forced(
    fake_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuning, "busy_cpus", lambda: 1e6)
    assert main(["tune", "--engines", str(fake_bundle)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: other programs keep 1000000.0 of ")
    assert error.endswith("wait until the machine is idle, or pass --force (force=True)")
    assert main(["tune", "--engines", str(fake_bundle), "--force"]) == 0
    assert taken(fake_bundle) == "swift"
