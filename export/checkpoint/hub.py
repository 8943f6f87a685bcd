"""Download files of a repository on the model hub, and compare them with the sizes and hashes that the hub states.

huggingface_hub finds the hub (or HF_ENDPOINT), sends HF_TOKEN or the saved token, and honours HF_HUB_OFFLINE. The files
are downloaded here by HTTP range requests, because `hf_hub_download` 2.4 cannot resume: each call has a new temporary
file, which it removes on failure, with HTTP as well as with Xet.
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
    HTTPError,  # of the HTTP library that huggingface_hub uses
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, tqdm

from export.errors import DOWNLOAD_COMMAND, DownloadError
from vexpress_rt import __version__
from vexpress_rt.errors import ConfigError, VExpressError

CLIENT = {"library_name": "vexpress-rt", "library_version": __version__}
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})  # HTTP statuses after which a later attempt may succeed
PAUSE = 1.0  # seconds after the first failed attempt; doubles with each one

Report = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A file of a repository.

    Attributes:
        path: Path in the repository.
        size: Size in bytes.
        digest: sha256 of a large file, git's sha1 of a small one.
    """

    path: str
    size: int
    digest: str

    def fault(self, file: Path) -> str:
        """Compare a file with size and hash.

        Args:
            file: The file, which is read completely.

        Returns:
            A description of the fault; "" if there is none.

        Raises:
            OSError: The file cannot be read.
        """
        if not file.is_file():
            return "is missing"
        if (size := file.stat().st_size) != self.size:
            return f"has {size} bytes, expected {self.size}"
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, self._hash).hexdigest()
        return "" if found == self.digest else f"has the hash {found}, expected {self.digest}"

    def part(self, target: Path) -> Path:
        """Return the path of the partial file of `target`; parts of different versions have different names.

        Args:
            target: The path of the complete file.
        """
        return target.with_name(f"{target.name}.{self.digest[:12]}.part")

    def downloaded(self, target: Path) -> int:
        """Return the size of the partial file of `target` in bytes.

        Args:
            target: The path of the complete file.
        """
        return _size(self.part(target))

    def _hash(self) -> Any:
        if len(self.digest) == 64:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)


@dataclass(frozen=True)
class Listing:
    """The files of a repository at a commit.

    Attributes:
        repository: OWNER/NAME.
        commit: Hash of the commit.
        entries: Files by path.
    """

    repository: str
    commit: str
    entries: Mapping[str, Entry]

    def entry(self, path: str) -> Entry:
        """Return the file at a path.

        Args:
            path: Path in the repository.

        Raises:
            DownloadError: The repository has no such file.
        """
        if path not in self.entries:
            raise DownloadError(
                f"{self.repository} at {self.commit} has no {path}: give the --repo and --revision that "
                f"{DOWNLOAD_COMMAND} has by default, or others with the same files"
            )
        return self.entries[path]


class Hub:
    """The hub that huggingface_hub is configured for."""

    def __init__(self, report: Report = lambda _: None):
        """Configure huggingface_hub.

        Args:
            report: Called with a line about each retry.
        """
        self._report = report
        constants.HF_HUB_DISABLE_TELEMETRY = True  # it sends a request before the first user agent is made

    def listing(self, repository: str, revision: str) -> Listing:
        """Request the list of files.

        Args:
            repository: OWNER/NAME.
            revision: Commit, tag or branch.

        Raises:
            ConfigError: `repository` is not the name of a repository.
            DownloadError: The hub cannot be reached, refuses, or has no such repository or revision.
        """
        try:
            with _translated_errors(repository, revision):
                info = self._retry(lambda: _model_info(repository, revision), attempts=2)
        except VExpressError:
            raise
        except Exception as error:  # parsers can raise anything for the page of a proxy or for a broken address
            raise DownloadError(
                f"the server that answers is not a model hub ({_describe(error)}): check HF_ENDPOINT, and whether this "
                "network requires a login"
            ) from error
        if info.id != repository:
            raise DownloadError(
                f"{repository} has moved to {info.id}: check that this is the right one, then give --repo {info.id}"
            )
        digests = {s.rfilename: s.lfs.sha256 if s.lfs else s.blob_id for s in info.siblings or ()}
        sizes = {s.rfilename: s.size for s in info.siblings or ()}
        stated = {path: Entry(path, sizes[path], digest) for path, digest in digests.items() if digest and sizes[path]}
        return Listing(repository, info.sha or revision, stated)

    def fetch(self, listing: Listing, entry: Entry, target: Path) -> None:
        """Download a file, and resume the partial file of an earlier run.

        Args:
            listing: The repository.
            entry: The file.
            target: Where to write it. It appears when it is complete and its hash is right.

        Raises:
            DownloadError: The hub cannot be reached or refuses, or the file has another hash.
            OSError: The file cannot be written. The partial file is kept.
        """
        part = entry.part(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        resumed = _size(part) > 0
        self._complete(listing, entry, part)
        fault = entry.fault(part)
        if fault and resumed:
            self._report(f"{entry.path}: the partial file of an earlier run was damaged; downloading it from the start")
            part.unlink()
            self._complete(listing, entry, part)
            fault = entry.fault(part)
        if fault:
            part.unlink()
            raise DownloadError(
                f"the downloaded {entry.path} of {listing.repository} {fault}: a proxy or a mirror (HF_ENDPOINT) may "
                "serve something else; run the command again, and over another network if that does not help"
            )
        part.replace(target)

    def _complete(self, listing: Listing, entry: Entry, part: Path) -> None:
        with _translated_errors(listing.repository, listing.commit):
            url = hf_hub_url(listing.repository, entry.path, revision=listing.commit)
            self._retry(lambda: self._append(url, entry, part), attempts=6, progress=lambda: _size(part))

    def _append(self, url: str, entry: Entry, part: Path) -> None:
        """Append the rest of the file to `part`, and at most one byte of excess data, so that `fault` finds it."""
        offset = _size(part)
        if offset >= entry.size:
            return
        # Ranges of the file itself, not of a compressed stream.
        headers = build_hf_headers(**CLIENT) | {"Accept-Encoding": "identity"}
        headers |= {"Range": f"bytes={offset}-"} if offset else {}
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", url, headers=headers, timeout=timeout) as response, part.open("ab") as file:
            if offset and response.status_code in (200, 416):  # no range: the whole file follows, or must be requested
                file.truncate(offset := 0)
            hf_raise_for_status(response)
            interval = 0.2 if sys.stderr.isatty() else 10  # seconds
            style = {"unit": "B", "unit_scale": True, "leave": False, "mininterval": interval}
            with tqdm(total=entry.size, initial=offset, **style) as bar:
                for chunk in response.iter_bytes():
                    offset += file.write(chunk[: entry.size + 1 - offset])
                    bar.update(len(chunk))
                    if offset > entry.size:
                        break
            file.flush()
            os.fsync(file.fileno())  # before the file gets its name, in case of a power failure

    def _retry(self, call: Callable[[], T], attempts: int, progress: Callable[[], int] = lambda: 0) -> T:
        """Call `call`, up to `attempts` times without progress after transient failures, and return its result."""
        failed = 0
        while True:
            before = progress()
            try:
                return call()
            except HTTPError as error:
                if isinstance(error, HfHubHTTPError) and error.response.status_code not in TRANSIENT:
                    raise
                failed = 1 if progress() > before else failed + 1
                if failed >= attempts:
                    raise
                self._report(f"trying again after {_describe(error)}")
            time.sleep(PAUSE * 2 ** (failed - 1))


def _model_info(repository: str, revision: str) -> ModelInfo:
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    return HfApi(**CLIENT).model_info(repository, revision=revision, files_metadata=True, timeout=timeout)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _describe(error: Exception) -> str:
    """Describe a failure without its URL: the URLs of files are signed, and very long."""
    if isinstance(error, HfHubHTTPError):
        return f"HTTP {error.response.status_code}"
    return f"{type(error).__name__}: {error}"


@contextmanager
def _translated_errors(repository: str, revision: str) -> Iterator[None]:
    """Turn errors of huggingface_hub into errors that name a remedy."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise DownloadError(
            "HF_HUB_OFFLINE is set: files can be neither downloaded nor compared with the hub. Unset it; files that "
            "you have already need no download: python -m export.build --weights DIR"
        ) from error
    except HFValidationError as error:
        raise ConfigError(f"--repo {repository} is not the name of a repository; expected OWNER/NAME") from error
    except HfHubHTTPError as error:
        raise DownloadError(_refusal_message(error, repository, revision)) from error
    except HTTPError as error:
        raise DownloadError(
            f"the hub cannot be reached ({_describe(error)}): check the network, the proxy (HTTPS_PROXY) and "
            "HF_ENDPOINT, and run the command again: it resumes where it stopped"
        ) from error


def _refusal_message(error: HfHubHTTPError, repository: str, revision: str) -> str:
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
        return "the hub received too many requests (HTTP 429): wait some minutes, or set HF_TOKEN, which allows more"
    if status == 404:
        return f"{repository} at {revision} lists a file that it does not have (HTTP 404): choose another --revision"
    return f"the hub fails (HTTP {status}): run the command again later; it resumes where it stopped"
