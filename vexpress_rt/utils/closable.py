"""Objects that own memory outside of Python and must be closed."""

from __future__ import annotations

import logging
import sys
from typing import Self

from vexpress_rt.errors import BackendError

_log = logging.getLogger("vexpress_rt")


class Closable:
    """An object that is closed by `close`, at the end of a `with` block, or at the latest by its destructor."""

    _open = False  # subclasses set it to True when there is something to free

    def close(self) -> None:
        """Free the memory. Closing twice is allowed."""
        raise AssertionError(f"{type(self).__name__} does not define close()")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._open or sys.is_finalizing():  # at interpreter exit the driver frees everything
            return
        try:
            self.close()
        except BackendError as error:
            _log.warning("%s", error)
