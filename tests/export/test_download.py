"""The released checkpoint comes whole or not at all, goes on where it stopped, and is what the hub states it to be."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from export import download as command
from export.build import __main__ as build
from export.checkpoint import layout
from export.checkpoint.layout import DETECTOR
from export.checkpoint.reader import Checkpoint
from export.download import REPOSITORY, REVISION, SOURCES, STAGING, download, main
from export.errors import CheckpointError, DownloadError
from tests.doubles.hub_server import REPOSITORY as THEIRS
from tests.doubles.hub_server import StandInHub
from tests.support.released import LARGEST, OURS, SMALL, WHOLE, content, fetch, released, tree
from vexpress_rt.errors import ConfigError, OutputError
from vexpress_rt.utils import file_lock


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandInHub]:
    with released(monkeypatch, tmp_path) as served:
        yield served


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def test_the_table_names_exactly_what_the_exporter_reads(micro_checkpoint: Path) -> None:
    checkpoint = Checkpoint(micro_checkpoint)
    networks = ("reference_net", "denoising_unet", "v_kps_guider", "audio_projection", "vae_encoder", "audio_encoder")
    read = {path.relative_to(micro_checkpoint).as_posix() for name in networks for path in checkpoint.files(name)}
    read = {name.replace("model.safetensors", "model.bin") for name in read}  # of the VAE: upstream's is a .bin
    configs = {layout.UNET_CONFIG, layout.VAE_CONFIG, layout.AUDIO_CONFIG, layout.AUDIO_PREPROCESSOR}
    assert {source.target for source in SOURCES} == read | configs | {DETECTOR}


def test_the_default_revision_is_one_commit_and_no_branch() -> None:
    assert len(bytes.fromhex(REVISION)) == 20
    assert {source.repository for source in SOURCES} == {REPOSITORY}


def test_exactly_the_files_of_the_table_arrive_in_our_layout(hub: StandInHub, output: Path) -> None:
    assert fetch(output) == len(SOURCES)
    assert tree(output) == WHOLE


def test_a_second_run_compares_everything_and_fetches_nothing(hub: StandInHub, output: Path) -> None:
    fetch(output)
    hub.requests.clear()
    assert fetch(output) == 0
    assert hub.fetched() == []


def test_files_that_are_missing_or_were_changed_are_fetched_and_no_others(hub: StandInHub, output: Path) -> None:
    fetch(output)
    hub.requests.clear()
    (output / OURS[LARGEST]).unlink()
    flipped = bytearray(content(SMALL))
    flipped[50] ^= 1
    (output / OURS[SMALL]).write_bytes(flipped)
    assert fetch(output) == 2
    assert set(hub.fetched()) == {LARGEST, SMALL}
    assert tree(output) == WHOLE


def test_files_of_the_user_in_the_same_folder_stay(hub: StandInHub, output: Path) -> None:
    (output / "v-express").mkdir(parents=True)
    (output / layout.OWN_CONFIG).write_text("{}")
    fetch(output)
    assert tree(output) == WHOLE | {layout.OWN_CONFIG: b"{}"}


def test_a_file_that_the_repository_lacks_is_named(hub: StandInHub, output: Path) -> None:
    hub.files = {path: body for path, body in hub.files.items() if path != LARGEST}
    with pytest.raises(DownloadError, match=rf"{THEIRS} at \w+ has no {LARGEST}: give the --repo"):
        fetch(output)
    assert not output.exists()


def test_too_little_room_is_reported_before_anything_is_fetched(
    hub: StandInHub, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.shutil, "disk_usage", lambda _: namedtuple("usage", "free")(1000))
    with pytest.raises(OutputError, match=r"has room for 1\.00 kB, but \d+\.\d\d kB are still missing: free some"):
        fetch(output)
    assert hub.fetched() == []


def test_a_disk_that_fills_up_is_an_error_that_says_so(hub: StandInHub, output: Path) -> None:
    digest = hashlib.sha256(content(LARGEST)).hexdigest()
    part = output / STAGING / f"{OURS[LARGEST]}.{digest[:12]}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"cannot be written: .*No space left.* free space"):
        fetch(output)
    assert not (output / OURS[LARGEST]).exists()


def test_a_folder_that_cannot_be_filled_to_the_end_is_no_checkpoint_yet(hub: StandInHub, output: Path) -> None:
    (output / OURS[SMALL]).mkdir(parents=True)
    with pytest.raises(OutputError, match=r"cannot be written: .*Is a directory"):
        fetch(output)
    assert not (output / layout.UNET_CONFIG).exists()
    (output / OURS[SMALL]).rmdir()
    hub.requests.clear()
    fetch(output)
    assert hub.fetched() == []
    assert tree(output) == WHOLE


def test_two_downloads_into_one_folder_do_not_mix(hub: StandInHub, output: Path) -> None:
    (output / STAGING).mkdir(parents=True)
    handle = os.open(output / STAGING, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match=r"another download into .* is running"):
            fetch(output)
    finally:
        os.close(handle)
    assert fetch(output) == len(SOURCES)


@pytest.mark.parametrize("folders_open", [True, False], ids=["folders can be opened", "as on Windows"])
def test_a_download_that_ends_lets_the_next_begin(
    hub: StandInHub, output: Path, folders_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_lock, "_FOLDERS_OPEN", folders_open)
    (output / STAGING).mkdir(parents=True)
    with (
        file_lock.locked_folder(output / STAGING),
        pytest.raises(DownloadError, match=r"another download into .* is running"),
    ):
        fetch(output)
    assert fetch(output) == len(SOURCES)
    assert tree(output) == WHOLE


def test_options_that_cannot_be_are_refused(hub: StandInHub, output: Path) -> None:
    with pytest.raises(ConfigError, match="is not the name of a repository; expected OWNER/NAME"):
        download(output, "not/a/name", "main")
    output.write_text("a file")
    with pytest.raises(ConfigError, match="is a file: choose another --output"):
        fetch(output)
    assert hub.requests == []


def test_the_command_fetches_a_checkpoint_and_says_how_to_go_on(
    hub: StandInHub, output: Path, micro_checkpoint: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    vae = Path("sd-vae-ft-mse/diffusion_pytorch_model.bin")
    torch.save(load_file((micro_checkpoint / vae).with_suffix(".safetensors")), tmp_path / vae.name)
    folders = {ours: tmp_path / vae.name if ours == str(vae) else micro_checkpoint / ours for ours in OURS.values()}
    hub.files = {path: folders[ours].read_bytes() for path, ours in OURS.items()}
    assert main(["--output", str(output), "--repo", THEIRS]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith(f"  python -m export.build --weights {output}\n")
    assert f"[12/12] {OURS[LARGEST]}: " in printed
    assert "InsightFace) for non-commercial research only" in printed
    assert Checkpoint(output).architecture.unet.block_out_channels == (8, 16)


def test_files_that_make_no_checkpoint_are_told_from_damaged_ones(
    hub: StandInHub, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output", str(output), "--repo", THEIRS]) == 1
    assert "error: all files match the hub, but they are not a checkpoint" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=r"leave them out"):
        command.check(output)


@pytest.mark.parametrize("lacking", ["", layout.UNET_CONFIG, "v-express/audio_projection.bin"])
def test_a_build_without_weights_names_the_command_that_fetches_them(
    micro_checkpoint: Path, output: Path, capsys: pytest.CaptureFixture[str], lacking: str
) -> None:
    if lacking:
        shutil.copytree(micro_checkpoint, output)
        (output / lacking).unlink()
    assert build.main(["--weights", str(output), "--output", str(output.parent / "engines")]) == 1
    assert "python -m export.download" in capsys.readouterr().err


def test_an_interrupted_command_goes_on_when_run_again(hub: StandInHub, output: Path) -> None:
    hub.stalls = {LARGEST}
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_secret", "HF_HOME": str(output.parent)}
    arguments = ["-m", "export.download", "--output", str(output), "--repo", THEIRS]
    process = subprocess.Popen(
        [sys.executable, *arguments], env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert hub.stalled.wait(60)
    while not any(part.stat().st_size for part in output.rglob("*.part")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=30)
    assert (process.returncode, printed.splitlines()[-1]) == (130, "interrupted; run the command again to resume")
    (part,) = output.rglob("*.part")
    come = part.stat().st_size
    assert {path.name for path in output.iterdir()} == {STAGING}
    hub.stalls.clear()
    hub.requests.clear()
    fetch(output)
    assert {(request.path, request.range) for request in hub.requests if request.path} == {(LARGEST, come)}
    assert tree(output) == WHOLE
