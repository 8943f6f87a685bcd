"""Objects that belong to the process that made them: they are neither pickled nor used after a fork."""

from __future__ import annotations

from typing import NoReturn


def refuse_pickling(found: object, remedy: str) -> NoReturn:
    """Raise TypeError for an object that cannot be pickled or copied; for `__reduce__`.

    Args:
        found: The object.
        remedy: An instruction what to send instead.
    """
    name = type(found).__name__
    article = "an" if name[0] in "AEIOU" else "a"
    raise TypeError(
        f"{article} {name} cannot be pickled or copied, because its engines belong to this process: {remedy}"
    )
