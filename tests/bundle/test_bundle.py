"""Bundles: files are as the manifest describes them, or are refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import CONTENTS, SHAPE, edit, make_compiled, make_folder, make_manifest
from tests.support.factories import model_config
from vexpress_rt.bundle.bundle import Bundle, sha256_file
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR, engine_specs
from vexpress_rt.bundle.manifest import MANIFEST, Manifest, read_manifest
from vexpress_rt.errors import (
    BundleDamagedError,
    BundleError,
    BundleNotFoundError,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole bundle."""
    return make_folder(tmp_path / "bundle")


def test_a_manifest_reads_back_as_it_was_written(folder: Path) -> None:
    assert read_manifest(folder) == make_manifest()
    assert sorted(path.name for path in folder.iterdir()) == sorted([*CONTENTS, MANIFEST])


def test_the_manifest_has_the_documented_keys(folder: Path) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    assert data["schema"] == 2
    assert (data["height"], data["width"], data["frames"]) == (64, 128, 8)
    assert data["allow_odd_sizes"] is False
    assert data["model"]["block_out_channels"] == [32, 64, 96, 128]
    assert data["engines"]["denoiser"]["data"] == ["denoiser.weights"]
    assert data["engines"]["denoiser"]["inputs"][0] == {
        "name": "latents", "dims": ["F", "c", "h", "w"], "shape": [8, 4, 8, 16], "dtype": "float32",
    }  # fmt: skip
    assert data["files"]["denoiser.onnx"]["bytes"] == len(CONTENTS["denoiser.onnx"])


def test_json_values_of_a_manifest_are_plain(folder: Path) -> None:
    data = make_manifest().to_json()
    assert data == json.loads(json.dumps(data))
    assert Manifest.from_json(data) == make_manifest()


def test_parity_may_be_left_out(folder: Path) -> None:
    edit(folder, lambda data: data.pop("parity"))
    assert read_manifest(folder).parity == {}


def test_a_bundle_gives_paths_of_verified_engines(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.engine_path("denoiser") == folder / "denoiser.onnx"
    assert bundle.engine_path(FACE_DETECTOR) == folder / "det_10g.onnx"
    assert bundle.has("denoiser")
    assert not bundle.has("vae_decoder")


def test_a_bundle_without_graphs_opens_and_gives_plans_and_the_detector(tmp_path: Path) -> None:
    bundle = Bundle.open(make_folder(tmp_path / "bundle", make_compiled(onnx=False)))
    assert bundle.plan_path("denoiser").is_file()
    assert bundle.engine_path(FACE_DETECTOR).is_file()
    with pytest.raises(BundleNotFoundError, match=r"built with --no-onnx and has no graph of engine 'denoiser'.*again"):
        bundle.engine_path("denoiser")


@pytest.mark.parametrize("which", [None, 0], ids=["of any compilation", "of one"])
def test_an_engine_without_a_plan_says_how_to_build_one(tmp_path: Path, which: int | None) -> None:
    bundle = Bundle.open(make_folder(tmp_path / "bundle", make_compiled()))
    asked = FACE_DETECTOR if which is None else "denoiser"
    with pytest.raises(BundleNotFoundError, match=rf"holds engine '{asked}' for ONNX Runtime alone; .* --target"):
        bundle.plan_path(asked, None if which is None else bundle.manifest.compiled[which])


def test_a_bundle_derives_the_specifications_of_all_engines(folder: Path) -> None:
    assert Bundle.open(folder).specs == engine_specs(model_config(), SHAPE)


def test_a_bundle_opens_by_a_path_given_as_text(folder: Path) -> None:
    assert Bundle.open(str(folder)).folder == folder


def test_identity_follows_the_files_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    identity = Bundle.open(folder).identity
    assert re.fullmatch(r"[0-9a-f]{16}", identity)
    moved = folder.rename(tmp_path / "elsewhere")
    edit(moved, lambda data: data["versions"].update(torch="3"))
    assert Bundle.open(moved).identity == identity
    edit(moved, lambda data: data["files"]["denoiser.onnx"].update(sha256="0" * 64))
    assert Bundle.open(moved).identity != identity


def test_a_file_is_hashed_once_and_its_size_compared_every_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    digest = hashlib.file_digest

    def counting(file: Any, kind: str) -> Any:
        hashed.append(os.readlink(f"/proc/self/fd/{file.fileno()}").rpartition("/")[2])
        return digest(file, kind)

    monkeypatch.setattr("hashlib.file_digest", counting)
    bundle = Bundle.open(folder)
    assert hashed == []
    bundle.engine_path("denoiser")
    bundle.engine_path("denoiser")
    assert hashed == ["denoiser.onnx", "denoiser.weights"]
    (folder / "denoiser.weights").write_bytes(b"")
    with pytest.raises(BundleDamagedError, match=r"denoiser.weights has 0 bytes; expected 2300"):
        bundle.engine_path("denoiser")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch, user_cache: Path) -> list[str]:
    """The names of the files that are hashed during the test, whose versions count as settled at once."""
    done: list[str] = []
    digest = hashlib.file_digest

    def counting(file: Any, kind: str) -> Any:
        done.append(Path(os.readlink(f"/proc/self/fd/{file.fileno()}")).name)
        return digest(file, kind)

    monkeypatch.setattr("hashlib.file_digest", counting)
    monkeypatch.setattr("vexpress_rt.utils.file_version._SETTLED", -(10**9))
    return done


def check_denoiser(folder: Path, *, recheck: bool = False) -> None:
    """Check the engine's files as a new process would."""
    bundle = Bundle.open(folder, recheck=recheck)
    bundle.engine_path("denoiser")
    bundle.check_unchanged("denoiser")


def test_files_that_an_earlier_process_has_checked_are_not_read_again(
    folder: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_denoiser(folder)
    assert hashed == ["denoiser.onnx", "denoiser.weights"]
    monkeypatch.setattr(Bundle, "_open", lambda *arguments: pytest.fail("read"))
    check_denoiser(folder)


def test_files_are_checked_again_on_request(folder: Path, hashed: list[str]) -> None:
    check_denoiser(folder)
    check_denoiser(folder, recheck=True)
    assert hashed == ["denoiser.onnx", "denoiser.weights"] * 2


def test_files_are_checked_by_every_process_without_a_cache(
    folder: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VEXPRESS_RT_CACHE_DIR", "off")
    check_denoiser(folder)
    check_denoiser(folder)
    assert hashed == ["denoiser.onnx", "denoiser.weights"] * 2


@pytest.mark.parametrize("name", ["denoiser.onnx", "denoiser.weights"])
def test_a_file_that_changed_in_place_is_found_out_although_its_time_was_set_back(
    folder: Path, hashed: list[str], name: str
) -> None:
    check_denoiser(folder)
    before = (folder / name).stat()
    time.sleep(0.02)  # a tick of the clock
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    with (folder / name).open("r+b") as file:
        file.write(content)
    os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(BundleDamagedError, match=rf"{name} has the sha256 \w{{64}}; expected"):
            check_denoiser(folder)


def test_a_manifest_with_another_hash_has_the_files_checked_again(folder: Path, hashed: list[str]) -> None:
    check_denoiser(folder)
    edit(folder, lambda data: data["files"]["denoiser.weights"].update(sha256="0" * 64))
    with pytest.raises(BundleDamagedError, match=r"denoiser.weights has the sha256 \w{64}; expected 0{64}"):
        check_denoiser(folder)


def test_what_failed_a_check_fails_in_the_next_process(folder: Path, hashed: list[str]) -> None:
    (folder / "denoiser.weights").write_bytes(CONTENTS["denoiser.weights"].replace(b"w", b"v"))
    for _ in range(2):
        with pytest.raises(BundleDamagedError, match=r"denoiser.weights has the sha256"):
            check_denoiser(folder)


def test_a_file_that_was_just_written_is_checked_again(
    folder: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vexpress_rt.utils.file_version._SETTLED", 60 * 10**9)
    check_denoiser(folder)
    check_denoiser(folder)
    assert hashed == ["denoiser.onnx", "denoiser.weights"] * 2


@pytest.mark.parametrize("what", ["_CHECKS", "__version__"])
def test_stricter_checks_are_made_again(
    folder: Path, hashed: list[str], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_denoiser(folder)
    monkeypatch.setattr(f"vexpress_rt.bundle.bundle.{what}", "new")
    check_denoiser(folder)
    assert hashed == ["denoiser.onnx", "denoiser.weights"] * 2


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_file(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()


def test_a_missing_folder_is_named_with_the_command_that_builds_one(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"nowhere is not a folder.*python -m export.build .*nowhere"):
        Bundle.open(tmp_path / "nowhere")


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"holds no manifest.json.*python -m export.build"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("name", ["bad\0name", "x" * 5000])
def test_a_folder_name_that_no_system_accepts_is_a_bundle_error(name: str) -> None:
    with pytest.raises(BundleError):
        Bundle.open(name)


def test_a_missing_engine_is_named_with_the_command_that_adds_it(folder: Path) -> None:
    with pytest.raises(
        BundleNotFoundError,
        match=r"no engine 'vae_decoder'; it has vae_encoder, .*python -m export.build .* --engine vae_d",
    ):
        Bundle.open(folder).engine_path("vae_decoder")


def test_a_changed_file_is_named_with_both_hashes(folder: Path) -> None:
    (folder / "denoiser.weights").write_bytes(CONTENTS["denoiser.weights"].replace(b"w", b"v"))
    bundle = Bundle.open(folder)
    bundle.engine_path("vae_encoder")
    expected = hashlib.sha256(CONTENTS["denoiser.weights"]).hexdigest()
    with pytest.raises(BundleDamagedError, match=rf"denoiser.weights has the sha256 \w{{64}}; expected {expected}"):
        bundle.engine_path("denoiser")


def test_a_truncated_file_is_found_on_opening(folder: Path) -> None:
    (folder / "denoiser.onnx").write_bytes(b"the")
    expected = len(CONTENTS["denoiser.onnx"])
    with pytest.raises(
        BundleDamagedError, match=rf"denoiser.onnx has 3 bytes; expected {expected}.*python -m export.build"
    ):
        Bundle.open(folder)


def test_a_missing_file_is_found_on_opening(folder: Path) -> None:
    (folder / "denoiser.weights").unlink()
    with pytest.raises(BundleDamagedError, match=r"denoiser.weights cannot be found"):
        Bundle.open(folder)


def test_a_folder_in_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "denoiser.onnx").unlink()
    (folder / "denoiser.onnx").mkdir()
    with pytest.raises(BundleDamagedError, match="expected a file"):
        Bundle.open(folder)


@pytest.mark.parametrize("target", ["../outside.onnx", "vae_encoder.onnx", "denoiser.onnx"])
def test_a_link_in_place_of_a_file_is_refused(folder: Path, tmp_path: Path, target: str) -> None:
    (folder / "denoiser.onnx").rename(tmp_path / "outside.onnx")
    (folder / "denoiser.onnx").symlink_to(target)
    with pytest.raises(BundleDamagedError, match=r"denoiser.onnx is a link; expected the file itself"):
        Bundle.open(folder)


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(folder: Path) -> None:
    (folder / "denoiser.weights").unlink()
    os.mkfifo(folder / "denoiser.weights")
    with pytest.raises(BundleDamagedError, match="a folder, a pipe or a device; expected a file"):
        Bundle.open(folder)


def test_a_file_that_is_replaced_by_another_of_its_size_is_hashed_anew(folder: Path) -> None:
    bundle = Bundle.open(folder)
    bundle.engine_path("denoiser")
    (folder / "aside").write_bytes(CONTENTS["denoiser.weights"].replace(b"w", b"v"))
    (folder / "aside").rename(folder / "denoiser.weights")
    with pytest.raises(BundleDamagedError, match=r"denoiser.weights has the sha256"):
        bundle.engine_path("denoiser")


def test_a_file_that_was_away_while_its_engine_was_loaded_is_found(folder: Path) -> None:
    """A library opens files by name when it loads an engine, so it may have read a replaced file."""
    bundle = Bundle.open(folder)
    bundle.engine_path("denoiser")
    bundle.check_unchanged("denoiser")
    time.sleep(0.02)  # longer than the time resolution of file systems
    (folder / "denoiser.weights").rename(folder / "aside")
    (folder / "aside").rename(folder / "denoiser.weights")
    with pytest.raises(BundleDamagedError, match=r"denoiser.weights was replaced or written to while its engine was"):
        bundle.check_unchanged("denoiser")
    assert bundle.engine_path("denoiser").is_file()


def test_a_bundle_in_a_linked_folder_is_used(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert Bundle.open(tmp_path / "link").engine_path("denoiser").is_file()


def test_every_input_and_output_that_does_not_fit_is_named(folder: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        denoiser = data["engines"]["denoiser"]
        denoiser["inputs"][0]["shape"][0] = 7
        denoiser["inputs"][1]["name"] = "time"
        denoiser["outputs"].pop()
        data["engines"]["vae_encoder"]["outputs"][0]["dtype"] = "float16"

    edit(folder, change)
    with pytest.raises(BundleDamagedError) as caught:
        Bundle.open(folder)
    for part in ("latents: float32 (F=7", "unknown input time", "lacks the input timestep", "lacks the output cond",
                 "vae_encoder has the output latent: float16"):  # fmt: skip
        assert part in str(caught.value)


def test_an_engine_that_this_version_does_not_know_is_named(folder: Path) -> None:
    edit(folder, lambda data: data["engines"].update(teleporter=data["engines"]["denoiser"]))
    with pytest.raises(BundleDamagedError, match="engine 'teleporter' is not one of vae_encoder, "):
        Bundle.open(folder)
