"""Recordings become mono samples at the model's rate with an exact duration."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.frame import AudioFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.sound_files import write_media, write_sound, write_wav
from vexpress_rt.errors import AudioError
from vexpress_rt.media import audio_input, audio_timeline
from vexpress_rt.media.recording import open_recording


def tone(seconds: float, rate: int, hertz: float = 300) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def test_samples_at_the_models_rate_are_taken_as_they_are() -> None:
    samples = tone(0.5, 16000)
    loaded = open_recording((samples, 16000), 16000)
    np.testing.assert_array_equal(loaded.read(), samples)
    assert loaded.duration == Fraction(1, 2)
    assert loaded.rate == 16000


def test_a_wav_file_is_read_by_any_kind_of_path(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "speech.wav", tone(0.5, 16000)[None], 16000)
    for source in (path, str(path)):
        loaded = open_recording(source, 16000)
        assert np.abs(loaded.read() - tone(0.5, 16000)).max() < 1e-4
        assert loaded.track is not None
        np.testing.assert_array_equal(loaded.track.read(0, 8000)[0], loaded.read())


@pytest.mark.parametrize("form", ["u8", "s16", "s32", "flt", "dbl"])
def test_every_sample_format_has_the_same_full_scale(tmp_path: Path, form: str) -> None:
    codec = {"u8": "pcm_u8", "s16": "pcm_s16le", "s32": "pcm_s32le", "flt": "pcm_f32le", "dbl": "pcm_f64le"}[form]
    path = write_media(tmp_path / "speech.wav", codec, tone(0.1, 16000)[None], 16000, form)
    tolerance = 2e-2 if form == "u8" else 1e-4
    assert np.abs(open_recording(path, 16000).read() - tone(0.1, 16000)).max() < tolerance


@pytest.mark.parametrize(
    ("name", "codec", "tolerance"),
    [("a.m4a", "aac", 0.2), ("a.mp3", "libmp3lame", 0.2), ("a.flac", "flac", 1e-4), ("a.mkv", "libopus", 0.2)],
)
def test_compressed_sound_starts_in_time(tmp_path: Path, name: str, codec: str, tolerance: float) -> None:
    """Encoder delay is dropped: the onset of a late burst is where it was recorded."""
    samples = np.zeros((1, 48000), np.float32)
    samples[0, 24000:] = tone(0.5, 48000, 1000)
    loaded = open_recording(write_media(tmp_path / name, codec, samples, 48000, "fltp"), 48000)
    onset = np.argmax(np.abs(loaded.read()) > 0.25)
    assert abs(int(onset) - 24000) < 100
    assert np.abs(loaded.read()[26000:46000] - samples[0, 26000:46000]).max() < tolerance
    assert Fraction(48000, 48000) <= loaded.duration < Fraction(48000 + 3000, 48000)


def test_the_sound_of_a_video_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "talk.mp4"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("libx264", rate=10), container.add_stream("aac", rate=16000, layout="mono")
        video.width = video.height = 32
        for index in range(5):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
            picture.pts, picture.time_base = index, Fraction(1, 10)
            container.mux(video.encode(picture))
        frame = AudioFrame.from_ndarray(tone(0.5, 16000)[None], "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
        container.mux([*sound.encode(frame), *video.encode(None), *sound.encode(None)])
    loaded = open_recording(path, 16000)
    assert np.abs(loaded.read()[2000:6000] - tone(0.5, 16000)[2000:6000]).max() < 0.1


def test_channels_are_averaged_and_kept_for_the_sound_track(tmp_path: Path) -> None:
    both = np.stack([tone(0.2, 16000), np.zeros(3200, np.float32)])
    for source in ((both, 16000), write_wav(tmp_path / "stereo.wav", both, 16000)):
        assert np.abs(open_recording(source, 16000).read() - both[0] / 2).max() < 1e-4
    loaded = open_recording((both, 16000), 16000)
    assert loaded.track is not None
    np.testing.assert_array_equal(loaded.track.read(0, 3200), both)
    assert loaded.track_rate == 16000


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 44101, 48000, 192000])
def test_resampling_keeps_time_and_level(rate: int) -> None:
    loaded = open_recording((tone(1, rate), rate), 16000)
    assert loaded.duration == 1
    assert loaded.count == 16000
    assert np.abs(loaded.read() - tone(1, 16000))[50:-50].max() < 1e-4


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 6000), rate=st.integers(1000, 768_000) | st.sampled_from([1000, 768_000]))
def test_any_length_at_any_rate_has_its_exact_duration_and_no_gap_at_its_ends(count: int, rate: int) -> None:
    count = min(count, rate * 3)
    loaded = open_recording((np.full(count, 0.5, np.float32), rate), 16000)
    assert loaded.duration == Fraction(count, rate)
    assert loaded.count == max(1, round(Fraction(count, rate) * 16000))
    assert np.abs(loaded.read() - 0.5).max() < 1e-2


def test_a_file_and_its_samples_resample_alike(tmp_path: Path) -> None:
    """Files arrive in other pieces than arrays; nothing may depend on that."""
    samples = np.round(np.random.default_rng(0).uniform(-0.5, 0.5, 30000) * 32767) / 32767
    path = write_wav(tmp_path / "noise.wav", samples[None], 44100)
    with wave.open(str(path)) as file:
        stored = np.frombuffer(file.readframes(30000), "<i2")
    np.testing.assert_allclose(
        open_recording(path, 16000).read(), open_recording((stored, 44100), 16000).read(), atol=1e-6
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"nowhere\.wav does not exist"):
        open_recording(tmp_path / "nowhere.wav", 16000)


@pytest.mark.parametrize("content", [b"", b"no sound at all", bytes(5000)])
def test_a_file_that_is_no_sound_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "speech.mp3"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"speech\.mp3"):
        open_recording(path, 16000)


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width = video.height = 32
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        container.mux([*video.encode(picture), *video.encode(None)])
    with pytest.raises(AudioError, match="holds video but no sound"):
        open_recording(path, 16000)


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "empty.wav", np.zeros((1, 0)), 16000)
    with pytest.raises(AudioError, match="holds no samples"):
        open_recording(path, 16000)


NOT_FINITE, TOO_LOUD = "holds NaN or infinite samples", "holds samples of up to .*; expected full scale 1"


@pytest.mark.parametrize(
    ("value", "found"), [(np.nan, NOT_FINITE), (np.inf, NOT_FINITE), (3e38, TOO_LOUD), (-20000, TOO_LOUD)]
)
def test_a_file_with_a_sample_that_is_none_is_refused(tmp_path: Path, value: float, found: str) -> None:
    """3e38 is finite as it is, and would become infinite where samples are filtered, or squared for their variance."""
    samples = np.zeros((1, 9000), np.float32)
    samples[0, 8500] = value
    path = write_media(tmp_path / "bad.wav", "pcm_f32le", samples, 8000, "flt")
    with pytest.raises(AudioError, match=rf"seconds in, {found}"):
        open_recording(path, 16000)


@pytest.mark.parametrize("rate", [999, 2_000_000])
def test_a_file_of_a_rate_out_of_range_is_refused(tmp_path: Path, rate: int) -> None:
    path = write_wav(tmp_path / "rate.wav", tone(600 / rate, rate)[None], rate)
    with pytest.raises(AudioError, match=rf"rate\.wav has {rate} Hz; expected 1000 to 768000: resample it"):
        open_recording(path, 16000)


def test_a_recording_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_timeline, "MAX_SECONDS", 36)
    monkeypatch.setattr(audio_input, "MAX_SECONDS", 36)
    samples = np.zeros(36_001, np.float32)
    path = write_wav(tmp_path / "long.wav", samples[None], 1000)
    for source in (path, (samples, 1000)):
        with pytest.raises(AudioError, match=r"0\.01 hours"):
            open_recording(source, 1000)
    assert open_recording((samples[:-1], 1000), 1000).duration == 36


def test_a_recording_damaged_in_the_middle_is_refused_and_the_place_named(tmp_path: Path) -> None:
    path = write_media(tmp_path / "speech.m4a", "aac", tone(3, 16000)[None], 16000, "fltp")
    content = bytearray(path.read_bytes())
    start = content.find(b"mdat") + 4
    content[start + 6000 : start + 9000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"is damaged \d\.\d\d seconds in"):
        open_recording(path, 16000)


def test_tags_and_cuts_at_the_ends_of_an_mp3_are_skipped(tmp_path: Path) -> None:
    path = write_media(tmp_path / "speech.mp3", "libmp3lame", tone(2, 16000)[None], 16000, "fltp")
    content = path.read_bytes()
    whole = open_recording(path, 16000).duration
    path.write_bytes(content + b"TAGTAGTAG" * 50)
    assert abs(open_recording(path, 16000).duration - whole) < 0.05
    path.write_bytes(content[: len(content) // 2 + 7])
    assert 0.8 < open_recording(path, 16000).duration < 1.2


def test_progress_is_called_while_reading_and_can_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vexpress_rt.media.recording._PROGRESS_SECONDS", 0)
    path = write_sound(tmp_path / "a.flac", "flac", tone(4, 16000)[None], 16000)
    reported: list[tuple[int, int]] = []
    open_recording(path, 16000, lambda done, total: reported.append((done, total)))
    assert {total for done, total in reported if done < 4} == {4}
    assert [done for done, _ in reported] == sorted(done for done, _ in reported)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_recording(path, 16000, stop)
