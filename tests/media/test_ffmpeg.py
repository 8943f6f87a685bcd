"""Untrusted files are only decoded: no other file or address is opened, and damage is skipped."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from tests.support.sound_files import write_media
from vexpress_rt.errors import AudioError, VideoError
from vexpress_rt.media.audio_reader import _without_padding, sound_blocks
from vexpress_rt.media.ffmpeg import READERS, open_media, packets


def write_wav(path: Path, count: int = 8000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * count))
    return path


def test_every_reader_named_is_one_that_ffmpeg_has() -> None:
    known = {name for formats in av.formats_available for name in formats.split(",")}
    assert set(READERS) <= known


@pytest.mark.parametrize(
    "script",
    ["ffconcat version 1.0\nfile {}\n", "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n"],
    ids=["concat", "hls"],
)
@pytest.mark.parametrize("name", ["speech.mp3", "speech.m3u8", "speech.ffconcat"])
def test_playlists_that_name_other_files_are_refused(tmp_path: Path, script: str, name: str) -> None:
    write_wav(tmp_path / "secret.wav")
    (tmp_path / name).write_text(script.format("secret.wav"))
    with pytest.raises(AudioError, match="cannot be read"), open_media(tmp_path / name, "the audio", AudioError):
        pass


@pytest.mark.parametrize("name", ["concat:a.wav|b.wav", "http:speech.wav", "-i.wav", "%03d.wav", "a b'c.wav", "ü.wav"])
def test_a_name_is_never_taken_for_an_address(tmp_path: Path, name: str) -> None:
    path = write_wav(tmp_path / name)
    assert sum(block.shape[1] for block, _ in sound_blocks(path)) == 8000


def test_a_relative_name_that_looks_like_an_address_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_wav(Path("pipe:0"))
    assert sum(block.shape[1] for block, _ in sound_blocks(Path("pipe:0"))) == 8000


def test_folders_and_missing_files_have_different_messages(tmp_path: Path) -> None:
    for path, found in ((tmp_path, "is a folder"), (tmp_path / "none.mp4", "does not exist")):
        with pytest.raises(VideoError, match=found), open_media(path, "the video", VideoError):
            pass


def test_a_file_is_decoded_piece_by_piece(tmp_path: Path) -> None:
    blocks = sound_blocks(write_wav(tmp_path / "long.wav", 800_000))
    block, rate = next(blocks)
    blocks.close()
    assert rate == 8000
    assert block.shape[0] == 1
    assert 1 <= block.shape[1] < 100_000


def test_samples_in_memory_are_given_in_pieces_of_all_channels() -> None:
    samples = np.arange(400_000, dtype=np.float32).reshape(2, -1)
    pieces = [block for block, rate in sound_blocks((samples, 8000)) if rate == 8000]
    assert max(piece.shape[1] for piece in pieces) < 100_000
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), samples)


@pytest.mark.parametrize("count", [1, 1024, 6400, 16000, 16001])
def test_padding_at_the_end_of_aac_in_mp4_does_not_count(tmp_path: Path, count: int) -> None:
    path = tmp_path / "speech.m4a"
    with av.open(str(path), "w", format="mp4", options={"movie_timescale": "16000"}) as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, count), 0.1, np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert sum(block.shape[1] for block, _ in sound_blocks(path)) == count


def blocks(sizes: list[int], seconds: Fraction | None) -> Iterator[tuple[np.ndarray, int, Fraction | None]]:
    """Blocks of counting numbers at 1000 Hz, from a file that declares `seconds`."""
    start = 0
    for size in sizes:
        yield np.arange(start, start + size, dtype=np.float32)[None], 1000, seconds
        start += size


@pytest.mark.parametrize(
    ("sizes", "seconds", "count"),
    [
        ([1024] * 5, None, 5120),
        ([1024] * 5, Fraction(5), 5000),
        ([1024] * 5, Fraction(4), 4000),  # a packet and more of padding
        ([1024] * 5, Fraction(9), 5120),  # declares more than there is
        ([1024] * 5, Fraction(3), 5120),  # declares too little: more follows than an encoder ever adds
        ([5120], Fraction(3), 5120),
        ([1024] * 100, Fraction(3), 102_400),
        ([7], Fraction(1, 10_000), 1),
    ],
)
def test_sound_ends_where_the_file_declares_unless_more_than_padding_follows(
    sizes: list[int], seconds: Fraction | None, count: int
) -> None:
    heard = [block[0] for block, _ in _without_padding(blocks(sizes, seconds))]
    assert all(len(block) for block in heard)
    np.testing.assert_array_equal(np.concatenate(heard), np.arange(count))


def test_flac_of_which_a_part_is_gone_is_refused_and_the_place_named(tmp_path: Path) -> None:
    """FFmpeg passes over what is no FLAC to the next frame, without a word."""
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 4 * 16000)).astype(np.float32)
    path = write_media(tmp_path / "speech.flac", "flac", sound, 16000, "fltp")
    content = path.read_bytes()
    assert sum(block.shape[1] for block, _ in sound_blocks(path)) == sound.shape[1]
    before, after = content[: len(content) // 2], content[len(content) // 2 + 30_000 :]
    message = r"damaged [23]\.\d\d seconds in \((0|1)\.\d\d seconds are missing\): transfer it again"
    for damaged in (before + bytes(30_000) + after, before + after):
        path.write_bytes(damaged)
        with pytest.raises(AudioError, match=message):
            list(sound_blocks(path))


def test_flac_that_goes_on_with_another_or_is_cut_at_its_end_is_whole(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 10_000)).astype(np.float32)
    content = write_media(tmp_path / "speech.flac", "flac", sound, 16000, "fltp").read_bytes()
    (tmp_path / "two.flac").write_bytes(content + content)
    assert sum(block.shape[1] for block, _ in sound_blocks(tmp_path / "two.flac")) == 20_000
    (tmp_path / "cut.flac").write_bytes(content[:-1000])
    assert 8_000 < sum(block.shape[1] for block, _ in sound_blocks(tmp_path / "cut.flac")) < 10_000


class _Container:
    """Container whose items are sizes of packets, or exceptions to raise."""

    def __init__(self, items: list[object]) -> None:
        self.items = items

    def demux(self, stream: object) -> Iterator[object]:
        while self.items:
            item = self.items.pop(0)
            if isinstance(item, BaseException):
                raise item
            yield SimpleNamespace(size=item, dts=None, pts=None)


def sizes(items: list[object], unreadable: Callable[[BaseException], object]) -> list[int]:
    """Return the sizes of the packets that are read from a container of these items."""
    source: Any = _Container(items)
    stream: Any = None
    return [packet.size for packet in packets(source, stream, Path("a.flv"), "the audio", AudioError, unreadable)]


def test_packets_continue_after_unreadable_parts() -> None:
    errors: list[BaseException] = []
    given = sizes([1, IndexError("list index out of range"), 2, RuntimeError("of PyAV"), 3, 0], errors.append)
    assert given == [1, 2, 3, 0]
    assert [str(error) for error in errors] == ["of PyAV"]
    assert sizes([1, *(ValueError("damaged") for _ in range(30)), 2], errors.append) == [1]


def test_a_failing_disk_is_not_damage() -> None:
    with pytest.raises(AudioError, match="cannot be read to its end"):
        sizes([1, av.error.OSError(5, "Input/output error")], print)
