"""Where plans are made: a folder inside the bundle's, from which they come into their place file by file."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vexpress_rt.bundle.bundle import WORKING
from vexpress_rt.errors import BundleDamagedError, BundleNotFoundError, OutputError, VExpressError
from vexpress_rt.utils.signals import signals_deferred

MARK = f"{WORKING}-"


def replaced(folder: Path) -> BundleDamagedError:
    """What to raise where another bundle has taken the place of that in `folder`."""
    return BundleDamagedError(
        f"{folder} was replaced by another build while plans were compiled for it, which are thrown away: open it again"
    )


class Shop:
    """A folder to work in, inside the bundle's. Both are held open: what is handed over goes where it belongs, even if
    another folder has taken the bundle's name since.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inside = os.open(path, os.O_RDONLY)
        self._outside = os.open(path.parent, os.O_RDONLY)

    def loss(self) -> VExpressError | None:
        """What to raise where the folder is not there any more, or in another bundle than it was; None where it is."""
        if _is(self.path, self._inside):
            return None
        bundle = self.path.parent
        if _is(bundle, self._outside):
            return OutputError(f"{self.path} was removed while plans were compiled there: try it again")
        if bundle.exists():
            return replaced(bundle)
        return BundleNotFoundError(
            f"{bundle} was removed while plans were compiled for it: build the bundle, or copy it, again"
        )

    def hand_over(self, names: list[str], obsolete: list[str]) -> None:
        """Move files out, in order, and remove others there."""
        with signals_deferred():
            for name in names:
                os.replace(name, name, src_dir_fd=self._inside, dst_dir_fd=self._outside)
            for name in obsolete:
                with suppress(OSError):
                    os.unlink(name, dir_fd=self._outside)

    def close(self) -> None:
        os.close(self._inside)
        os.close(self._outside)


@contextmanager
def workshop(folder: Path) -> Iterator[Shop]:
    """A new Shop in the folder of a bundle, without those that killed processes left there; gone at the end."""
    for path in folder.glob(f"{MARK}*"):
        shutil.rmtree(path, ignore_errors=True)
    path = folder / f"{MARK}{secrets.token_hex(4)}"
    try:
        path.mkdir()
        shop = Shop(path)
        try:
            yield shop
        except (VExpressError, OSError) as error:
            if loss := shop.loss():
                raise loss from error
            raise
        finally:
            shop.close()
    except VExpressError:
        raise
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error}: check folder, permissions and free space") from error
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _is(path: Path, descriptor: int) -> bool:
    """Whether a path leads to the folder that is open."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False
