"""The utterances of a live session: which frames belong to which one, and which lie between them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple


@dataclass
class _Utterance:
    number: int
    begin: int  # first frame
    end: int | None = None  # the frame after the last one; None while the utterance is open


class Place(NamedTuple):
    """The place of a frame among the utterances.

    Attributes:
        utterance: Number of the frame's utterance, from 1; of an idle frame, that of the utterance before, or 0.
        idle: Whether the frame lies outside of utterances.
        last: Whether its utterance ends with the frame.
    """

    utterance: int
    idle: bool
    last: bool


class Utterances:
    """Numbers utterances from 1; no number is used twice.

    Not thread-safe: the owner must hold a lock.
    """

    def __init__(self) -> None:
        self._known: deque[_Utterance] = deque()
        self._count = 0

    @property
    def open(self) -> bool:
        """Whether an utterance has begun and not ended."""
        return bool(self._known) and self._known[-1].end is None

    def any_after(self, frame: int) -> bool:
        """Return whether an utterance has, or may yet have, frames from `frame` on.

        Args:
            frame: Number of the frame.
        """
        if not self._known:
            return False
        end = self._known[-1].end
        return end is None or end > frame

    def begin(self, frame: int) -> None:
        """Begin an utterance with `frame`, unless one is open.

        Args:
            frame: At least the end of the utterance before.
        """
        if not self.open:
            self._count += 1
            self._known.append(_Utterance(self._count, frame))

    def end(self, frame: int) -> None:
        """End the open utterance, if there is one, before `frame`. One without frames is forgotten.

        Args:
            frame: The frame after its last one.
        """
        if self.open:
            self._known[-1].end = frame
            if self._known[-1].begin == frame:
                self._known.pop()

    def cut(self, frame: int) -> None:
        """Remove the frames from `frame` on from their utterances.

        Args:
            frame: The first frame that was not shown.
        """
        while self._known and self._known[-1].begin >= frame:
            self._known.pop()
        if self._known:
            end = self._known[-1].end
            self._known[-1].end = frame if end is None else min(end, frame)

    def place(self, frame: int) -> Place:
        """Return the place of a frame.

        Args:
            frame: Not before the frame of the last call of `forget_before`.
        """
        found = None
        for utterance in self._known:
            if utterance.begin > frame:
                break
            found = utterance
        if found is None:
            return Place(0, True, False)
        return Place(found.number, found.end is not None and frame >= found.end, found.end == frame + 1)

    def forget_before(self, frame: int) -> None:
        """Forget the utterances that no frame from `frame` on needs.

        Args:
            frame: The earliest frame that is still asked for.
        """
        while len(self._known) > 1 and self._known[1].begin <= frame:
            self._known.popleft()
