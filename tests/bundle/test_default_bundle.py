"""Without a named bundle, the shipped bundle is used."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.doubles.fakes import FakeBackend
from tests.support.folders import content
from tests.support.scenes import FAST, photo, speech
from vexpress_rt import BundleNotFoundError, Generator
from vexpress_rt.__main__ import main
from vexpress_rt.bundle import default_bundle
from vexpress_rt.bundle.manifest import MANIFEST


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The folders in which the bundle is searched during this test; none has one."""
    folders = (tmp_path / "package" / "pocket", tmp_path / "checkout" / "pocket")
    monkeypatch.setattr(default_bundle, "CANDIDATES", folders)
    return folders


@pytest.fixture
def pocket(places: tuple[Path, Path], fake_bundle: Path) -> Iterator[Path]:
    """The bundle of fakes as the shipped bundle, in a read-only folder."""
    folder = Path(shutil.copytree(fake_bundle, places[0]))
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def state(folder: Path) -> dict[str, int]:
    """Return the modification times of a folder and its files; a temporary file changes that of the folder."""
    return {path.name: path.stat().st_mtime_ns for path in (folder, *folder.iterdir())}


def test_it_is_looked_for_in_the_package_and_in_the_checkout() -> None:
    root = Path(default_bundle.__file__).parents[2]
    assert list(default_bundle.CANDIDATES) == [root / "vexpress_rt" / "engines" / "pocket", root / "engines" / "pocket"]


def test_a_bundle_in_the_package_comes_first(places: tuple[Path, Path]) -> None:
    for folder in reversed(places):
        folder.mkdir(parents=True)
        (folder / MANIFEST).touch()
        assert default_bundle.shipped_bundle() == folder


def test_a_generator_without_a_bundle_takes_it_and_writes_nothing_there(pocket: Path, backend: FakeBackend) -> None:
    before = state(pocket)
    with Generator() as generator:
        assert generator.bundle.folder == pocket
        assert str(pocket) in generator.describe()
        assert generator.generate(photo(), speech(), config=FAST).length == 9
    assert state(pocket) == before


def test_a_generator_without_any_says_where_it_looked_and_what_to_do(places: tuple[Path, Path]) -> None:
    places[1].mkdir(parents=True)  # without a manifest
    with pytest.raises(BundleNotFoundError) as error:
        Generator()
    printed = str(error.value)
    assert f"neither {places[0]} nor {places[1]} holds a manifest.json" in printed
    assert "install vexpress_rt again" in printed
    assert "--engines DIR or Generator('DIR')" in printed
    assert "`python -m export.build --weights CHECKPOINT --output DIR`" in printed


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The flags of a video, out.mp4 in the working folder, without a bundle."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Image.fromarray(photo()).save("face.png")
    return ["--image", "face.png", "--audio", speech_file(), "--output", "out.mp4", "--steps", "1", "--overlap", "2"]


def speech_file() -> str:
    """A speech file in the working folder."""
    import wave

    samples, rate = speech()
    with wave.open("speech.wav", "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return "speech.wav"


def test_generate_without_engines_takes_it_and_says_so_once(
    inputs: list[str], pocket: Path, backend: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", *inputs]) == 0
    assert os.path.getsize("out.mp4") > 0
    printed = capsys.readouterr().err.splitlines()
    line = f"no bundle was named: taking the small one that ships with vexpress-rt, {pocket}"
    assert [text for text in printed if "ships" in text] == [line]


def test_generate_says_nothing_of_it_when_quiet_or_when_a_bundle_is_named(
    inputs: list[str], pocket: Path, backend: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", *inputs, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["generate", *inputs, "--engines", str(pocket)]) == 0
    assert "ships" not in capsys.readouterr().err


def test_generate_without_any_bundle_is_an_error_that_leaves_nothing(
    inputs: list[str], places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(Path())
    assert main(["generate", *inputs]) == 1
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith(
        "error: no bundle of engines was named, and the one that ships with vexpress_rt is missing"
    )
    assert content(Path()) == before


def test_inspect_without_a_folder_tells_of_it(pocket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--verify"]) == 0
    captured = capsys.readouterr()
    assert f"bundle:    {pocket}, identity" in captured.out
    assert captured.err.startswith("no bundle was named")
