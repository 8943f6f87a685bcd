"""The version of a file, which changes with its content."""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

from vexpress_rt.utils.partial_file import boot_id

_SETTLED = 60 * 10**9  # nanoseconds; the system writes mapped pages back after about 35 s


class FileVersion(NamedTuple):
    """The identity of a file's content at a moment. Replacing or writing to the file changes its version.

    Attributes:
        device: The file system.
        inode: Number in the file system.
        size: Bytes.
        written: Time of the last write, in nanoseconds since 1970. Programs can set it.
        changed: Time of the last change of the file or its attributes, in nanoseconds since 1970; only the system sets
            it. Renaming changes it too: a file that was moved away and back has another version.
    """

    device: int
    inode: int
    size: int
    written: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileVersion:
        """Return the version of a file from its status.

        Args:
            found: The result of `os.stat`, `os.lstat` or `os.fstat`.
        """
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    @property
    def settled(self) -> bool:
        """Whether a later write is sure to give the file another version.

        Within the same tick of the clock, a write leaves the times as they are; so does one through a mapping, until
        the system has written the mapped page to the disk. On Windows, `changed` is the time of creation.
        """
        return os.name != "nt" and self.changed < time.time_ns() - _SETTLED

    def to_json(self) -> list[Any]:
        """Return the version as JSON, with the boot ID.

        After a restart, a number can belong to another device, and a power failure can undo the last writes to a file
        without changing its version.
        """
        return [boot_id(), *self]
