"""What holds memory that Python does not see, and so has to be closed."""

from __future__ import annotations

import logging
import sys
from typing import Self

from vexpress_rt.errors import BackendError

_log = logging.getLogger("vexpress_rt")


class Closable:
    """Something to be closed: by `close`, at the end of a `with` block, or at the latest when Python drops it."""

    _open = False  # set once there is something to close

    def close(self) -> None:
        """Free it. Closing twice is allowed."""
        raise AssertionError(f"{type(self).__name__} has to say how")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._open or sys.is_finalizing():  # at the end the driver takes everything back
            return
        try:
            self.close()
        except BackendError as error:
            _log.warning("%s", error)
