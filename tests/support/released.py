"""A stand-in hub with a stand-in for the released checkpoint, for tests of its download."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from export.checkpoint import hub as client
from export.download import SOURCES, download
from tests.doubles.hub_server import REPOSITORY, StandInHub, serving

LARGEST, SMALL = "denoising_unet.bin", "model_ckpts/sd-vae-ft-mse/config.json"
OURS = {source.path: source.target for source in SOURCES}
HALF = 60_000  # bytes: the middle of the largest file


def content(path: str) -> bytes:
    """Return pseudo-random bytes; their number differs by path."""
    size = 2 * HALF if path == LARGEST else 100 if path.endswith(".json") else 5000 + len(path)
    return hashlib.shake_256(path.encode()).digest(size)


WHOLE = {ours: content(path) for path, ours in OURS.items()}


@contextmanager
def released(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[StandInHub]:
    """Run a hub with all files of the checkpoint and one more, to which huggingface_hub connects."""
    files = {path: content(path) for path in (*OURS, "README.md")}
    with serving(StandInHub(files)) as served:
        point_at(served.address, patch, folder)
        yield served


def point_at(address: str, patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make huggingface_hub behave as if imported with HF_ENDPOINT=address, without a token."""
    _session_without_proxies()
    patch.setattr(constants, "ENDPOINT", address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no token"))
    patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    patch.setattr(client, "PAUSE", 0.001)
    patch.delenv("HF_TOKEN", raising=False)


@cache
def _session_without_proxies() -> None:
    """Create the session of all requests of the process without the proxies of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        huggingface_hub.close_session()
        huggingface_hub.get_session()


def fetch(output: Path) -> int:
    """Download the checkpoint from `released`; return the number of downloaded files."""
    return download(output, REPOSITORY, "main")


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
