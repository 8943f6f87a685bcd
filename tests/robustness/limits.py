"""What an input may take and touch, measured inside the child process that reads it."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HARD_MEMORY = 4 << 30  # bytes beyond what the child has at its start, which the system does not give
LARGEST_FILE = 256 << 20  # bytes that may be written to one
CANARIES = ("secret.wav", "secret.png", "secret.npy", "secret.bin", "secret.mp4", "secret.txt")
_IN_NONBLOCK, _IN_OPEN = 0o4000, 0x20
# Events of the interpreter that no input may cause, whatever their arguments.
_FORBIDDEN = ("subprocess.Popen", "os.exec", "os.system", "os.posix_spawn", "socket.connect", "socket.getaddrinfo")


class Measure:
    """Looks at the process before and after an input. Its findings are sentences; none means that all is well.

    folder: holds `canary`, whose files no reader has a reason to open, `inputs` and `tmp`.
    memory: MB of resident memory that an input may take beyond what was there.
    """

    def __init__(self, folder: Path, memory: int) -> None:
        self._folder, self._memory = folder, memory
        self._events: list[str] = []
        self._notify = _watch(folder / "canary")
        self._descriptors, self._said = 0, os.fstat(2).st_size
        sys.addaudithook(self._hear)

    @contextmanager
    def watched(self, findings: list[str], allowed: Path, *, noisy: bool) -> Iterator[None]:
        """Watch what the block does.

        allowed: what may be in `inputs` afterwards.  noisy: whether libraries may print on stderr.
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

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
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
        """What libraries print past the package, which a user could not make sense of."""
        size = os.fstat(2).st_size
        if size == self._said:
            return []
        with (self._folder / "stderr").open("rb") as file:
            file.seek(self._said)
            text = file.read(2000).decode(errors="replace")
        self._said = size
        return [f"stderr: {text.strip()[:500]!r}"]

    def _leaked(self) -> list[str]:
        count = _descriptors()
        if self._descriptors and count > self._descriptors:
            gc.collect()
            count = _descriptors()
        before, self._descriptors = self._descriptors, count
        # The first inputs load libraries, which keep some open.
        return [f"descriptors: {count - before} more than before"] if before and count > before + 2 else []


def restrict() -> None:
    """Bound what the process can take from the machine, so that a hostile input ends the child and nothing else."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    limit = _status("VmData") * 1024 + HARD_MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def lay_canaries(folder: Path) -> None:
    """Files that hostile inputs name, and whose opening tells of a reader that follows names in its input."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CANARIES:
        (folder / name).write_bytes(b"canary " * 1000)


def _watch(folder: Path) -> int:
    """A descriptor that hears of files being opened, by C libraries too; -1 where the system has no such thing."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        descriptor = int(library.inotify_init1(_IN_NONBLOCK))
        if descriptor >= 0 and library.inotify_add_watch(descriptor, os.fsencode(folder), _IN_OPEN) >= 0:
            return descriptor
    except AttributeError:
        pass
    return -1


def _status(field: str) -> int:
    """A field of /proc/self/status, in kB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field + ":"))


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
