"""Files of a repository on the model hub: what the hub states of them, and each fetched and compared with that.

huggingface_hub knows where the hub is (HF_ENDPOINT names another place), sends HF_TOKEN or the saved token, and refuses
under HF_HUB_OFFLINE. The bytes are read here, by plain HTTP with ranges: its `hf_hub_download` starts a file anew after
an interruption, by HTTP and by Xet alike (2.4: each call has a temporary file of its own, and removes it on failure).
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, ModelInfo, constants, get_session, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of the HTTP library that huggingface_hub uses, whichever that is
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, tqdm

from export.errors import DOWNLOAD_COMMAND, DownloadError
from vexpress_rt import __version__
from vexpress_rt.errors import ConfigError, VExpressError

CLIENT = {"library_name": "vexpress-rt", "library_version": __version__}
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})  # HTTP statuses that a later attempt may not meet
PAUSE = 1.0  # seconds after the first attempt in vain, then twice as long each time

Report = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A file as the hub states it.

    path: in the repository.  size: bytes.  digest: sha256 of a large file, git's sha1 of a small one.
    """

    path: str
    size: int
    digest: str

    def fault(self, file: Path) -> str:
        """What is wrong with `file`, or nothing. Reads all of it; raises OSError."""
        if not file.is_file():
            return "is missing"
        if (size := file.stat().st_size) != self.size:
            return f"has {size} bytes, expected {self.size}"
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, self._hash).hexdigest()
        return "" if found == self.digest else f"has the hash {found}, expected {self.digest}"

    def part(self, target: Path) -> Path:
        """Where the file is collected that will be `target`. The digest keeps parts of two versions apart."""
        return target.with_name(f"{target.name}.{self.digest[:12]}.part")

    def begun(self, target: Path) -> int:
        """How many bytes of `target` have been collected."""
        return _size(self.part(target))

    def _hash(self) -> Any:
        if len(self.digest) == 64:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)


@dataclass(frozen=True)
class Listing:
    """A repository at one commit.  entries: by path."""

    repository: str
    commit: str
    entries: Mapping[str, Entry]

    def entry(self, path: str) -> Entry:
        """The file at `path`; DownloadError if there is none."""
        if path not in self.entries:
            raise DownloadError(
                f"{self.repository} at {self.commit} has no {path}: give the --repo and --revision that "
                f"{DOWNLOAD_COMMAND} has by default, or others with the same files"
            )
        return self.entries[path]


class Hub:
    """The hub, as huggingface_hub is set up to reach it. All methods raise DownloadError, saying what to do."""

    def __init__(self, report: Report = lambda _: None):
        self._report = report
        constants.HF_HUB_DISABLE_TELEMETRY = True  # or else each user agent costs a request about coding assistants

    def listing(self, repository: str, revision: str) -> Listing:
        """What the hub states of the repository; ConfigError if `repository` is no name of one."""
        try:
            with _explained(repository, revision):
                info = self._patiently(lambda: _model_info(repository, revision), attempts=2)
        except VExpressError:
            raise
        except Exception as error:  # what the page of a proxy, or a broken address, makes of parsers is anything
            raise DownloadError(
                f"what answers is no hub ({_brief(error)}): check HF_ENDPOINT, and whether this network wants a login"
            ) from error
        if info.id != repository:
            raise DownloadError(
                f"{repository} has moved to {info.id}: see whether that is what you want, then give --repo {info.id}"
            )
        digests = {s.rfilename: s.lfs.sha256 if s.lfs else s.blob_id for s in info.siblings or ()}
        sizes = {s.rfilename: s.size for s in info.siblings or ()}
        stated = {path: Entry(path, sizes[path], digest) for path, digest in digests.items() if digest and sizes[path]}
        return Listing(repository, info.sha or revision, stated)

    def fetch(self, listing: Listing, entry: Entry, target: Path) -> None:
        """Fetch a file, going on where an earlier run stopped. `target` appears when complete and compared.

        Also raises OSError if the disk refuses something; what came until then is kept.
        """
        part = entry.part(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        resumed = _size(part) > 0
        self._complete(listing, entry, part)
        fault = entry.fault(part)
        if fault and resumed:
            self._report(f"{entry.path}: what an earlier run left was damaged, starting anew")
            part.unlink()
            self._complete(listing, entry, part)
            fault = entry.fault(part)
        if fault:
            part.unlink()
            raise DownloadError(
                f"{entry.path} of {listing.repository}, as it came, {fault}: a proxy or a mirror (HF_ENDPOINT) may be "
                "serving something else; run the command again, by another way if it happens again"
            )
        part.replace(target)

    def _complete(self, listing: Listing, entry: Entry, part: Path) -> None:
        with _explained(listing.repository, listing.commit):
            url = hf_hub_url(listing.repository, entry.path, revision=listing.commit)
            self._patiently(lambda: self._append(url, entry, part), attempts=6, progress=lambda: _size(part))

    def _append(self, url: str, entry: Entry, part: Path) -> None:
        """Add to `part` what it lacks; one byte too many, and no more, if more comes than there should be."""
        begun = _size(part)
        if begun >= entry.size:
            return
        headers = build_hf_headers(**CLIENT) | {"Accept-Encoding": "identity"}  # ranges of the file, not of a stream
        headers |= {"Range": f"bytes={begun}-"} if begun else {}
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", url, headers=headers, timeout=timeout) as response, part.open("ab") as file:
            if begun and response.status_code in (200, 416):  # no ranges here: all of it comes, or has to be asked for
                file.truncate(begun := 0)
            hf_raise_for_status(response)
            often = 0.2 if sys.stderr.isatty() else 10  # seconds
            look = {"unit": "B", "unit_scale": True, "leave": False, "mininterval": often}
            with tqdm(total=entry.size, initial=begun, **look) as bar:
                for chunk in response.iter_bytes():
                    begun += file.write(chunk[: entry.size + 1 - begun])
                    bar.update(len(chunk))
                    if begun > entry.size:
                        break
            file.flush()
            os.fsync(file.fileno())  # the name must not outlive the bytes when the power fails

    def _patiently(self, call: Callable[[], T], attempts: int, progress: Callable[[], int] = lambda: 0) -> T:
        """The result of `call`, tried again after failures that may pass, `attempts` times without progress."""
        vain = 0
        while True:
            before = progress()
            try:
                return call()
            except HTTPError as error:
                if isinstance(error, HfHubHTTPError) and error.response.status_code not in TRANSIENT:
                    raise
                vain = 1 if progress() > before else vain + 1
                if vain >= attempts:
                    raise
                self._report(f"trying again after {_brief(error)}")
            time.sleep(PAUSE * 2 ** (vain - 1))


def _model_info(repository: str, revision: str) -> ModelInfo:
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    return HfApi(**CLIENT).model_info(repository, revision=revision, files_metadata=True, timeout=timeout)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _brief(error: Exception) -> str:
    """A failure in a few words, without addresses: those of files are signed, and longer than a screen."""
    if isinstance(error, HfHubHTTPError):
        return f"HTTP {error.response.status_code}"
    return f"{type(error).__name__}: {error}"


@contextmanager
def _explained(repository: str, revision: str) -> Iterator[None]:
    """Failures of huggingface_hub as errors that say what to do."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise DownloadError(
            "HF_HUB_OFFLINE is set: nothing can be fetched, nor compared with the hub. Unset it; files that are there "
            "already need no download: python -m export.build --weights DIR"
        ) from error
    except HFValidationError as error:
        raise ConfigError(f"--repo {repository} names no repository: expected OWNER/NAME") from error
    except HfHubHTTPError as error:
        raise DownloadError(_refusal(error, repository, revision)) from error
    except HTTPError as error:
        raise DownloadError(
            f"the hub cannot be reached ({_brief(error)}): check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT, "
            "and run the command again: it goes on where it stopped"
        ) from error


def _refusal(error: HfHubHTTPError, repository: str, revision: str) -> str:
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return f"{repository} is gated (HTTP {status}): accept its terms on its page, and set HF_TOKEN to your token"
    if isinstance(error, RevisionNotFoundError):
        return f"{repository} has no revision {revision} (HTTP {status}): choose another --revision; main is the newest"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub has no repository {repository}, or does not show it to you (HTTP {status}): if it was moved or "
            "withdrawn give another --repo, if it is private set HF_TOKEN to a token that may read it"
        )
    if status in (401, 403):
        return f"the hub refuses {repository} (HTTP {status}): check that HF_TOKEN is valid and allows it, or unset it"
    if status == 429:
        return "the hub has had too many requests (HTTP 429): wait some minutes; with HF_TOKEN more are allowed"
    if status == 404:
        return f"{repository} at {revision} lists a file that it does not have (HTTP 404): choose another --revision"
    return f"the hub fails (HTTP {status}): run the command again later, it goes on where it stopped"
