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

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from export import architecture as arch
from export import build
from export import download as command
from export import hub as client
from export.checkpoint import DETECTOR, Checkpoint
from export.download import ASIDE, REPOSITORY, REVISION, SOURCES, download, main
from export.errors import CheckpointError, DownloadError
from tests.hub_server import REPOSITORY as THEIRS
from tests.hub_server import StandInHub, serving
from vexpress_rt.errors import ConfigError, OutputError

LARGEST, SMALL = "denoising_unet.bin", "model_ckpts/sd-vae-ft-mse/config.json"
OURS = {source.path: source.ours for source in SOURCES}
HALF = 60_000  # bytes: the middle of the largest file


def content(path: str) -> bytes:
    """Bytes that look like nothing, a different number of them for each path."""
    size = 2 * HALF if path == LARGEST else 100 if path.endswith(".json") else 5000 + len(path)
    return hashlib.shake_256(path.encode()).digest(size)


@pytest.fixture(scope="module", autouse=True)
def no_proxy() -> Iterator[None]:
    """The session that all requests share is made here, without proxies that this machine may want for others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        huggingface_hub.close_session()
        huggingface_hub.get_session()
        yield
    huggingface_hub.close_session()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandInHub]:
    """A hub with all files of the checkpoint and one more, that huggingface_hub takes for the real one."""
    files = {path: content(path) for path in (*OURS, "README.md")}
    with serving(StandInHub(files)) as served:
        point_at(served.address, monkeypatch, tmp_path)
        yield served


def point_at(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make huggingface_hub behave as if it had been imported with HF_ENDPOINT=address, without anyone's token."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(client, "PAUSE", 0.001)
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def fetch(output: Path) -> int:
    return download(output, THEIRS, "main")


def tree(folder: Path) -> dict[str, bytes]:
    """Content of every file below `folder`, by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


WHOLE = {ours: content(path) for path, ours in OURS.items()}


def test_the_table_names_exactly_what_the_exporter_reads(micro_checkpoint: Path) -> None:
    checkpoint = Checkpoint(micro_checkpoint)
    networks = ("reference_net", "denoising_unet", "v_kps_guider", "audio_projection", "vae_encoder", "audio_encoder")
    read = {path.relative_to(micro_checkpoint).as_posix() for name in networks for path in checkpoint.files(name)}
    read = {name.replace("model.safetensors", "model.bin") for name in read}  # of the VAE: upstream's is a .bin
    configs = {arch.UNET_CONFIG, arch.VAE_CONFIG, arch.AUDIO_CONFIG, arch.AUDIO_PREPROCESSOR}
    assert {source.ours for source in SOURCES} == read | configs | {DETECTOR}


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
    (output / arch.OWN_CONFIG).write_text("{}")
    fetch(output)
    assert tree(output) == WHOLE | {arch.OWN_CONFIG: b"{}"}


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub: StandInHub, output: Path) -> None:
    hub.cuts[LARGEST] = [HALF, 100]
    fetch(output)
    assert [r.range for r in hub.requests if r.path == LARGEST and "localhost" in r.host] == [0, HALF, HALF + 100]
    assert tree(output) == WHOLE


def test_a_download_that_failed_leaves_no_checkpoint_and_goes_on_in_the_next_run(hub: StandInHub, output: Path) -> None:
    hub.cuts[LARGEST] = [HALF, *[0] * 20]
    with pytest.raises(DownloadError, match=r"cannot be reached .* goes on where it stopped"):
        fetch(output)
    assert {path.name for path in output.iterdir()} == {ASIDE}
    hub.cuts.clear()
    hub.requests.clear()
    fetch(output)
    assert {(r.path, r.range) for r in hub.requests if r.path} == {(LARGEST, HALF)}
    assert tree(output) == WHOLE


def test_a_server_without_ranges_sends_the_file_from_its_start(hub: StandInHub, output: Path) -> None:
    hub.cuts[LARGEST] = [HALF]
    hub.ranges = False
    fetch(output)
    assert tree(output) == WHOLE


@pytest.mark.parametrize("path", [LARGEST, SMALL])
def test_other_bytes_than_the_hub_states_are_refused(hub: StandInHub, output: Path, path: str) -> None:
    hub.bodies[path] = b"?" + content(path)[1:]
    with pytest.raises(DownloadError, match=r"has the hash [0-9a-f]+, expected [0-9a-f]+: a proxy or a mirror"):
        fetch(output)
    assert not any(name.endswith(".part") for name in tree(output))
    assert not (output / OURS[path]).exists()


@pytest.mark.parametrize(
    ("body", "size"), [(content(LARGEST)[:-7], 2 * HALF - 7), (content(LARGEST) * 9, 2 * HALF + 1)]
)
def test_another_size_than_the_hub_states_is_refused(hub: StandInHub, output: Path, body: bytes, size: int) -> None:
    hub.bodies[LARGEST] = body
    with pytest.raises(DownloadError, match=rf"has {size} bytes, expected {2 * HALF}"):
        fetch(output)
    assert {path.name for path in output.iterdir()} == {ASIDE}


def test_a_damaged_beginning_of_an_earlier_run_is_fetched_anew(hub: StandInHub, output: Path) -> None:
    hub.cuts[LARGEST] = [HALF, *[0] * 20]
    with pytest.raises(DownloadError):
        fetch(output)
    (part,) = output.rglob("*.part")
    part.write_bytes(b"damaged")
    hub.cuts.clear()
    fetch(output)
    assert tree(output) == WHOLE


def test_a_beginning_of_another_version_is_not_gone_on_with(hub: StandInHub, output: Path) -> None:
    hub.cuts[LARGEST] = [HALF, *[0] * 20]
    with pytest.raises(DownloadError):
        fetch(output)
    hub.cuts.clear()
    hub.requests.clear()
    hub.files = {**hub.files, LARGEST: content(LARGEST)[::-1]}
    fetch(output)
    assert {request.range for request in hub.requests} == {0}
    assert tree(output) == WHOLE | {OURS[LARGEST]: content(LARGEST)[::-1]}


def test_a_file_that_the_repository_lacks_is_named(hub: StandInHub, output: Path) -> None:
    hub.files = {path: body for path, body in hub.files.items() if path != LARGEST}
    with pytest.raises(DownloadError, match=rf"{THEIRS} at \w+ has no {LARGEST}: give the --repo"):
        fetch(output)
    assert not output.exists()


@pytest.mark.parametrize(
    ("path", "status", "code", "told"),
    [
        ("", 401, "RepoNotFound", "no repository someone/model, or does not show it .*HTTP 401.*--repo.*HF_TOKEN"),
        ("", 404, "RepoNotFound", "no repository someone/model.*--repo"),
        ("", 403, "GatedRepo", "gated .HTTP 403.: accept its terms"),
        ("", 404, "RevisionNotFound", "no revision main .HTTP 404.: choose another --revision"),
        ("", 403, "", "refuses someone/model .HTTP 403.: check that HF_TOKEN"),
        ("", 429, "", "too many requests .HTTP 429.: wait"),
        (LARGEST, 404, "EntryNotFound", "lists a file that it does not have .HTTP 404."),
        (LARGEST, 401, "", "HTTP 401.*HF_TOKEN"),
        (LARGEST, 503, "", "the hub fails .HTTP 503.: run the command again later"),
    ],
)
def test_a_refusal_says_what_to_do(hub: StandInHub, output: Path, path: str, status: int, code: str, told: str) -> None:
    hub.statuses[path] = [(status, code)] * 20
    with pytest.raises(DownloadError, match=told):
        fetch(output)
    assert not (output / OURS[LARGEST]).exists()


def test_a_hub_that_fails_for_a_moment_is_asked_again(hub: StandInHub, output: Path) -> None:
    hub.statuses = {"": [(503, "")], LARGEST: [(429, ""), (502, "")]}
    fetch(output)
    assert tree(output) == WHOLE


def test_a_repository_that_moved_is_named_and_not_followed(hub: StandInHub, output: Path) -> None:
    hub.repository = "someone/else"
    with pytest.raises(DownloadError, match=r"someone/model has moved to someone/else: .* --repo someone/else"):
        fetch(output)
    assert hub.fetched() == []


def test_offline_mode_is_respected(hub: StandInHub, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match=r"HF_HUB_OFFLINE is set: .* Unset it"):
        fetch(output)
    assert hub.requests == []


def test_without_a_network_the_error_says_so(output: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with serving(StandInHub({})) as gone:
        pass
    point_at(gone.address, monkeypatch, tmp_path)
    with pytest.raises(DownloadError, match=r"cannot be reached \(ConnectError: .*\): check the network"):
        fetch(output)
    assert not output.exists()


@pytest.mark.parametrize("page", [b"<html>Log in to the network of this hotel</html>", b'{"error": "login"}'])
def test_what_is_no_hub_is_told_from_one(hub: StandInHub, output: Path, page: bytes) -> None:
    hub.page = page
    with pytest.raises(DownloadError, match=r"what answers is no hub .* check HF_ENDPOINT"):
        fetch(output)


def test_the_token_goes_to_the_hub_and_no_further(
    hub: StandInHub, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(output)
    tokens = {(request.host.partition(":")[0], request.token) for request in hub.requests}
    assert tokens == {("127.0.0.1", "Bearer hf_secret"), ("localhost", None)}


def test_too_little_room_is_told_before_anything_is_fetched(
    hub: StandInHub, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.shutil, "disk_usage", lambda _: namedtuple("usage", "free")(1000))
    with pytest.raises(OutputError, match=r"has room for 1\.00 kB, \d+\.\d\d kB are to come: free some"):
        fetch(output)
    assert hub.fetched() == []


def test_a_disk_that_fills_up_is_an_error_that_says_so(hub: StandInHub, output: Path) -> None:
    digest = hashlib.sha256(content(LARGEST)).hexdigest()
    part = output / ASIDE / f"{OURS[LARGEST]}.{digest[:12]}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"cannot be written: .*No space left.* free space"):
        fetch(output)
    assert not (output / OURS[LARGEST]).exists()


def test_a_folder_that_cannot_be_filled_to_the_end_is_no_checkpoint_yet(hub: StandInHub, output: Path) -> None:
    (output / OURS[SMALL]).mkdir(parents=True)
    with pytest.raises(OutputError, match=r"cannot be written: .*Is a directory"):
        fetch(output)
    assert not (output / arch.UNET_CONFIG).exists()
    (output / OURS[SMALL]).rmdir()
    hub.requests.clear()
    fetch(output)
    assert hub.fetched() == []
    assert tree(output) == WHOLE


def test_two_downloads_into_one_folder_do_not_mix(hub: StandInHub, output: Path) -> None:
    (output / ASIDE).mkdir(parents=True)
    handle = os.open(output / ASIDE, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match=r"another download into .* is running"):
            fetch(output)
    finally:
        os.close(handle)
    assert fetch(output) == len(SOURCES)


def test_options_that_cannot_be_are_refused(hub: StandInHub, output: Path) -> None:
    with pytest.raises(ConfigError, match="names no repository: expected OWNER/NAME"):
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
    told = capsys.readouterr().out
    assert told.endswith(f"  python -m export.build --weights {output}\n")
    assert f"[12/12] {OURS[LARGEST]}: " in told
    assert "InsightFace) for non-commercial research only" in told
    assert Checkpoint(output).architecture.unet.block_out_channels == (8, 16)


def test_files_that_make_no_checkpoint_are_told_from_damaged_ones(
    hub: StandInHub, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output", str(output), "--repo", THEIRS]) == 1
    assert "error: all files are as the hub states them, but they make no checkpoint" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=r"leave them out"):
        command.check(output)


@pytest.mark.parametrize("lacking", ["", arch.UNET_CONFIG, "v-express/audio_projection.bin"])
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
    _, told = process.communicate(timeout=30)
    assert (process.returncode, told.splitlines()[-1]) == (130, "interrupted; run the command again to go on")
    (part,) = output.rglob("*.part")
    come = part.stat().st_size
    assert {path.name for path in output.iterdir()} == {ASIDE}
    hub.stalls.clear()
    hub.requests.clear()
    fetch(output)
    assert {(request.path, request.range) for request in hub.requests if request.path} == {(LARGEST, come)}
    assert tree(output) == WHOLE
