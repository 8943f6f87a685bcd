"""Signatures of methods that pass their arguments on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def takes_arguments_of(
    method: Callable[Concatenate[Any, P], object],
) -> Callable[[Callable[..., R]], Callable[Concatenate[Any, P], R]]:
    """Return a decorator for a method that passes all of its arguments on to another method.

    Type checkers, `help` and `inspect.signature` then see the arguments of that method.

    Args:
        method: The method that takes the arguments.
    """

    def decorate(function: Callable[..., R]) -> Callable[Concatenate[Any, P], R]:
        returned = inspect.signature(function).return_annotation
        function.__signature__ = inspect.signature(method).replace(return_annotation=returned)  # type: ignore[attr-defined]
        return function

    return decorate
