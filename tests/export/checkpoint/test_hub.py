"""Downloads from the hub are checked against its listing and resumed; errors name the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from export.download import STAGING
from export.errors import DownloadError
from tests.doubles.hub_server import StandInHub, serving
from tests.support.released import HALF, LARGEST, OURS, SMALL, WHOLE, content, fetch, point_at, released, tree


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandInHub]:
    with released(monkeypatch, tmp_path) as served:
        yield served


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub: StandInHub, output: Path) -> None:
    hub.cuts[LARGEST] = [HALF, 100]
    fetch(output)
    assert [r.range for r in hub.requests if r.path == LARGEST and "localhost" in r.host] == [0, HALF, HALF + 100]
    assert tree(output) == WHOLE


def test_a_download_that_failed_leaves_no_checkpoint_and_goes_on_in_the_next_run(hub: StandInHub, output: Path) -> None:
    hub.cuts[LARGEST] = [HALF, *[0] * 20]
    with pytest.raises(DownloadError, match=r"cannot be reached .* resumes where it stopped"):
        fetch(output)
    assert {path.name for path in output.iterdir()} == {STAGING}
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
    assert {path.name for path in output.iterdir()} == {STAGING}


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


@pytest.mark.parametrize(
    ("path", "status", "code", "message"),
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
def test_a_refusal_says_what_to_do(
    hub: StandInHub, output: Path, path: str, status: int, code: str, message: str
) -> None:
    hub.statuses[path] = [(status, code)] * 20
    with pytest.raises(DownloadError, match=message):
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
def test_what_is_no_hub_is_reported_from_one(hub: StandInHub, output: Path, page: bytes) -> None:
    hub.page = page
    with pytest.raises(DownloadError, match=r"the server that answers is not a model hub .* check HF_ENDPOINT"):
        fetch(output)


def test_the_token_goes_to_the_hub_and_no_further(
    hub: StandInHub, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(output)
    tokens = {(request.host.partition(":")[0], request.token) for request in hub.requests}
    assert tokens == {("127.0.0.1", "Bearer hf_secret"), ("localhost", None)}
