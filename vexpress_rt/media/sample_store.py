"""Storage of decoded samples: in memory up to a limit, beyond it in a temporary file.

The temporary file has no name on POSIX systems and is deleted on closing elsewhere, so that nothing is left when the
process is killed. Its folder is that of `tempfile.gettempdir()`: TMPDIR, or TEMP on Windows.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from contextlib import suppress
from typing import Protocol

import numpy as np

from vexpress_rt.errors import AudioError
from vexpress_rt.types import Float32

MEMORY_LIMIT = 16 << 20  # bytes: four minutes of mono at 16 kHz
DISK_RESERVE = 1 << 30  # bytes that a temporary file leaves free, but no more than a tenth of the disk
_ROOM_CHECK = 64 << 20  # bytes between two checks of the free space


class Samples(Protocol):
    """Samples that can be read any number of times, from any thread."""

    @property
    def channels(self) -> int:
        """Number of channels."""

    @property
    def count(self) -> int:
        """Number of samples of each channel."""

    def read(self, start: int, stop: int) -> Float32:
        """Return samples of all channels.

        Args:
            start: Index of the first sample, at least 0.
            stop: Index after the last sample, at most `count`.

        Returns:
            (channels, stop - start) float32.

        Raises:
            AudioError: The samples are in a temporary file, which cannot be read.
        """


class SampleArray:
    """Samples in an array, which is not copied.

    Args:
        samples: (channels, N) float32.
    """

    def __init__(self, samples: Float32) -> None:
        self._samples = samples
        self.channels, self.count = samples.shape

    def read(self, start: int, stop: int) -> Float32:
        """Return samples of all channels: see `Samples.read`."""
        assert 0 <= start <= stop <= self.count
        return self._samples[:, start:stop]


class SampleStore:
    """Samples that are appended in pieces and read in any order.

    Args:
        channels: Number of channels.
        subject: The owner of the samples, for messages: "the audio speech.wav".
        limit: Bytes in memory, above 0, beyond which all samples move to a temporary file; None for `MEMORY_LIMIT`.
    """

    def __init__(self, channels: int, subject: str, limit: int | None = None) -> None:
        self.channels = channels
        self.count = 0
        self._subject = subject
        self._frame = channels * np.dtype(np.float32).itemsize  # bytes of one sample of every channel
        self._lock = threading.Lock()
        limit = MEMORY_LIMIT if limit is None else limit
        self._next_check = limit
        self._file = tempfile.SpooledTemporaryFile(limit)  # noqa: SIM115
        weakref.finalize(self, _close, self._file)

    def append(self, samples: Float32) -> None:
        """Append samples.

        Args:
            samples: (channels, n) float32; any n.

        Raises:
            AudioError: The temporary file cannot be written, or would leave less than `DISK_RESERVE` free.
        """
        if (size := (self.count + samples.shape[1]) * self._frame) > self._next_check:
            self._check_room()
            self._next_check = size + _ROOM_CHECK
        try:
            self._file.write(np.ascontiguousarray(samples.T).data)
        except OSError as error:
            raise self._failed("written", error) from error
        self.count += samples.shape[1]

    def _check_room(self) -> None:
        """Raise AudioError if the disk is almost full: a long recording must not stop other programs."""
        try:
            usage = shutil.disk_usage(tempfile.gettempdir())
        except OSError:  # writing reports the error
            return
        tenth = usage.total // 10
        if usage.free < min(DISK_RESERVE, tenth) + min(_ROOM_CHECK, tenth):
            raise self._failed("written", OSError("the disk is almost full"))

    def flush(self) -> None:
        """Write buffered samples, so that a full disk is reported here.

        Raises:
            AudioError: The temporary file cannot be written.
        """
        try:
            self._file.flush()
        except OSError as error:
            raise self._failed("written", error) from error

    def read(self, start: int, stop: int) -> Float32:
        """Return samples of all channels: see `Samples.read`."""
        assert 0 <= start <= stop <= self.count
        samples = np.empty((stop - start, self.channels), np.float32)
        with self._lock:
            try:
                self._file.seek(start * self._frame)
                self._file.readinto(samples.data)
            except OSError as error:
                raise self._failed("read", error) from error
        return samples.T

    def _failed(self, action: str, error: OSError) -> AudioError:
        folder, free = "the folder for temporary files", "an unknown amount"
        with suppress(OSError):
            folder = tempfile.gettempdir()
            free = f"{shutil.disk_usage(folder).free / 1e6:.1f} MB"
        return AudioError(
            f"{self._subject} is kept in a temporary file in {folder}, which cannot be {action} after "
            f"{self.count * self._frame / 1e6:.1f} MB ({error.strerror or error}; {free} free): make room there, or "
            "set TMPDIR (TEMP on Windows) to another folder"
        )


def _close(file: tempfile.SpooledTemporaryFile[bytes]) -> None:
    with suppress(OSError):  # buffered samples are not needed any more
        file.close()
