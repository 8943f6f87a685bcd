"""Limits of memory and access for an input, measured in the child process that reads it."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HARD_MEMORY = 4 << 30  # bytes of RLIMIT_DATA above the child's memory at its start
LARGEST_FILE = 256 << 20  # bytes; RLIMIT_FSIZE
CANARIES = ("secret.wav", "secret.png", "secret.npy", "secret.bin", "secret.mp4", "secret.txt")
_IN_NONBLOCK, _IN_OPEN = 0o4000, 0x20
# Audit events that no input may cause.
_FORBIDDEN = ("subprocess.Popen", "os.exec", "os.system", "os.posix_spawn", "socket.connect", "socket.getaddrinfo")


class Measure:
    """Compares the process before and after an input, and returns findings: a sentence for each violation.

    Args:
        folder: Contains `canary`, whose files no reader may open, `inputs` and `tmp`.
        memory: Limit of an input's resident memory in MB.
    """

    def __init__(self, folder: Path, memory: int) -> None:
        self._folder, self._memory = folder, memory
        self._events: list[str] = []
        self._notify = _watch(folder / "canary")
        self._descriptors, self._stderr_size = 0, os.fstat(2).st_size
        sys.addaudithook(self._audit)

    @contextmanager
    def watched(self, findings: list[str], allowed: Path, *, noisy: bool) -> Iterator[None]:
        """Watch the block and append to `findings`.

        Args:
            findings: The list to append to.
            allowed: The only file that may be in `inputs` afterwards.
            noisy: Whether libraries may print on stderr.
        """
        self._events.clear()
        before = _status("VmRSS")
        _reset_peak()
        try:
            yield
        finally:
            grown = (_status("VmHWM") - before) // 1024
            if grown > self._memory:
                findings.append(f"memory: took {grown} MB; expected at most {self._memory} MB")
            findings += [f"opened: {event}" for event in self._events]
            findings += [f"opened: {name} through a library" for name in self._opened()]
            findings += self._left_behind(allowed)
            printed = self._printed()
            findings += [] if noisy else printed
            findings += self._leaked()

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in _FORBIDDEN:
            self._events.append(f"{event} {arguments!r:.200}")
        elif event == "open" and "/canary/" in str(arguments[0]):
            self._events.append(f"{arguments[0]!r:.200}")

    def _opened(self) -> list[str]:
        try:
            events = os.read(self._notify, 1 << 16) if self._notify >= 0 else b""
        except BlockingIOError:
            events = b""
        return [name for name in CANARIES if name.encode() in events]

    def _left_behind(self, allowed: Path) -> list[str]:
        found = []
        for name in ("inputs", "tmp"):
            for path in sorted((self._folder / name).iterdir()):
                if path != allowed:
                    found.append(f"left behind: {name}/{path.name}")
                    if path.is_file() or path.is_symlink():
                        path.unlink()
        return found

    def _printed(self) -> list[str]:
        """Return the output that libraries print on stderr past the package."""
        size = os.fstat(2).st_size
        if size == self._stderr_size:
            return []
        with (self._folder / "stderr").open("rb") as file:
            file.seek(self._stderr_size)
            text = file.read(2000).decode(errors="replace")
        self._stderr_size = size
        return [f"stderr: {text.strip()[:500]!r}"]

    def _leaked(self) -> list[str]:
        count = _descriptors()
        if self._descriptors and count > self._descriptors:
            gc.collect()
            count = _descriptors()
        before, self._descriptors = self._descriptors, count
        # The first inputs load libraries, which keep descriptors open.
        return [f"descriptors: {count - before} more than before"] if before and count > before + 2 else []


def restrict() -> None:
    """Limit the resources of the process, so that a hostile input ends the child and nothing else."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    limit = _status("VmData") * 1024 + HARD_MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def lay_canaries(folder: Path) -> None:
    """Write the files that hostile inputs name. A reader that opens one follows names in its input."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CANARIES:
        (folder / name).write_bytes(b"canary " * 1000)


def _watch(folder: Path) -> int:
    """Return an inotify descriptor for opened files, by C libraries too; -1 without inotify."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        descriptor = int(library.inotify_init1(_IN_NONBLOCK))
        if descriptor >= 0 and library.inotify_add_watch(descriptor, os.fsencode(folder), _IN_OPEN) >= 0:
            return descriptor
    except AttributeError:
        pass
    return -1


def _status(field: str) -> int:
    """Return a field of /proc/self/status in kB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field + ":"))


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
