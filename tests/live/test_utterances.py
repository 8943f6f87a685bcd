"""Which frames belong to which utterance."""

from __future__ import annotations

from vexpress_rt.live.utterances import Utterances


def test_frames_are_those_of_their_utterance_and_idle_in_between() -> None:
    utterances = Utterances()
    assert utterances.place(0) == (0, True, False)
    utterances.begin(2)
    utterances.begin(5)  # goes on
    assert utterances.open
    assert utterances.place(7) == (1, False, False)
    assert utterances.any_after(100)
    utterances.end(8)
    assert [utterances.any_after(frame) for frame in (7, 8)] == [True, False]
    utterances.end(9)  # has ended
    utterances.begin(10)
    assert [utterances.place(frame) for frame in (1, 2, 7, 8, 9, 10)] == [
        (0, True, False), (1, False, False), (1, False, True), (1, True, False), (1, True, False), (2, False, False),
    ]  # fmt: skip


def test_a_cut_ends_the_utterance_and_no_number_is_used_twice() -> None:
    utterances = Utterances()
    for begin, end in ((0, 4), (4, 8)):
        utterances.begin(begin)
        utterances.end(end)
    utterances.begin(8)
    utterances.cut(3)
    assert not utterances.open
    assert utterances.place(2) == (1, False, True)
    assert utterances.place(3) == (1, True, False)
    utterances.begin(3)
    assert utterances.place(3) == (4, False, False)
    utterances.cut(6)
    utterances.cut(9)  # behind the end
    assert utterances.place(6) == (4, True, False)


def test_an_utterance_without_a_frame_is_forgotten_and_so_are_old_ones() -> None:
    utterances = Utterances()
    for _ in range(1000):
        utterances.begin(0)
        utterances.end(0)
    assert utterances.place(0) == (0, True, False)
    for frame in range(1000):
        utterances.begin(frame)
        utterances.end(frame + 1)
    utterances.forget_before(997)
    assert len(utterances._known) == 3
    assert utterances.place(997) == (1998, False, True)
