"""Compiled engines in the user's cache: later processes import them, which takes half the time of compiling.

An entry is an export of OpenVINO: the transformed graph with its weights. It is made from files of a bundle that
passed all checks, and its key has their hashes, so an engine that is imported does not read the bundle's files at all.
The key also has OpenVINO's version, the CPU, the plugin's configuration without the number of threads, which takes
effect at the import, and the hashes of the modules that make the model of a graph.

OpenVINO does not check a file that it imports: changed weights go unnoticed, and offsets inside the file are not
checked. So the user's cache compares the file's hash first. The file is mapped into memory, and stays mapped while the
engine exists.

Only engines for the CPU are stored: other devices have not been tried.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vexpress_rt.backends.openvino import engine, library, model
from vexpress_rt.backends.openvino.options import CPU, EngineOptions
from vexpress_rt.backends.validation import error_text
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.utils.cpu_model import cpu_model
from vexpress_rt.utils.memory_errors import ran_out
from vexpress_rt.utils.native_calls import native_call
from vexpress_rt.utils.user_cache import entry_lock, find_file, remove_file, store_file

KIND = "openvino_engine"
_MAKERS = (model, engine)  # the modules that decide what is compiled from a graph
_ANY_THREADS = "INFERENCE_NUM_THREADS"  # the plugin's property that an imported engine gets anew
_WAIT = 120.0  # seconds; a process that compiles for longer, or is stopped, does not hold up others

_log = logging.getLogger("vexpress_rt")


class CachedEngine:
    """The place of one engine in the user's cache.

    Args:
        bundle: The bundle.
        name: The engine's name.
        options: Its device, precision and threads.
    """

    def __init__(self, bundle: Bundle, name: str, options: EngineOptions) -> None:
        self._name = name
        self._options = options
        entry, files = bundle.manifest.engines[name], bundle.manifest.files
        self._size = sum(files[file].bytes for file in entry.files)  # roughly that of the compiled engine
        self._key = "" if options.device != CPU else _key(options, {file: files[file].sha256 for file in entry.files})

    def find(self) -> Any | None:
        """Return the compiled model, imported from the cache; None if it is not there or cannot be imported.

        Raises:
            BackendMissingError: OpenVINO is not installed.
            BackendError: Memory ran out.
        """
        if not self._key or (path := find_file(KIND, self._key)) is None:
            return None
        core, started = library.compiler(), time.monotonic()
        try:
            compiled = _import(core, path, self._options)
        except FileNotFoundError:  # another process has just made room for an entry of its own
            return None
        except Exception as error:  # OpenVINO's exceptions have no common base
            if ran_out(error):
                raise library.backend_error(f"engine {self._name} cannot be loaded from {path}", error) from error
            _log.info("engine %s is compiled again: %s cannot be imported: %s", self._name, path, error_text(error))
            remove_file(KIND, self._key)
            return None
        _log.info("engine %s: imported from %s in %.1f s", self._name, path, time.monotonic() - started)
        return compiled

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Let one process at a time compile this engine; the others wait, and find it afterwards.

        Two processes that compile at once would take twice the memory, and each twice as long. A process that waits for
        longer than two minutes compiles as well.
        """
        if not self._key:
            yield
            return
        with entry_lock(KIND, self._key, _WAIT):
            yield

    def store(self, compiled: Any) -> None:
        """Store a compiled model for later processes, if the cache has room for it.

        Args:
            compiled: OpenVINO's compiled model.
        """
        if not self._key:
            return

        def write(path: Path) -> None:
            with _FileStream(path) as stream, native_call():
                compiled.export_model(stream)

        started = time.monotonic()
        try:
            path = store_file(KIND, self._key, self._size, write)
        except Exception as error:  # OpenVINO's exceptions have no common base
            _log.info("engine %s is not stored in the cache: %s", self._name, error_text(error))
            return
        if path is not None:
            _log.info("engine %s: stored in %s in %.1f s", self._name, path, time.monotonic() - started)

    def discard(self) -> None:
        """Remove the entry, because the engine in it is not the one that is expected."""
        remove_file(KIND, self._key)


class _FileStream(io.BytesIO):
    """A stream into a file. OpenVINO exports to instances of BytesIO alone, which would hold the engine in memory."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("wb", buffering=0)
        self._failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all bytes to the file; OpenVINO goes on after a failure, so `__exit__` raises it."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self._failure is None:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._failure = error
        return size

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in the file."""
        return self._file.tell()

    def flush(self) -> None:
        """Do nothing: no bytes are held back."""

    def __exit__(self, *arguments: object) -> None:
        """Close the file, and raise the first failure to write."""
        self._file.close()
        self.close()
        if self._failure is not None:
            raise self._failure


def _import(core: Any, path: Path, options: EngineOptions) -> Any:
    """Return the compiled model in a file whose hash was compared."""
    with path.open("rb") as file:  # a private mapping that OpenVINO could write to, as its tensors require
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    content = np.frombuffer(mapping, np.uint8)
    with native_call():
        tensor = library.import_library().Tensor(content, shared_memory=True)
        compiled = core.import_model(tensor, options.device, options.configuration())
    compiled.vexpress_rt_content = content  # the model reads its weights there, and holds no reference
    return compiled


def _key(options: EngineOptions, files: dict[str, str]) -> str:
    configuration = {name: value for name, value in options.configuration().items() if name != _ANY_THREADS}
    parts = {
        "made by": [hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest() for module in _MAKERS],
        "version": library.full_version(),
        "device": options.device,
        "cpu": cpu_model().key,
        "configuration": configuration,
        "files": files,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
