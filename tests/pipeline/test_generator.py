"""The generator's handling of photo, speech, keypoints and noise; engines are fakes, everything else is real."""

from __future__ import annotations

import logging
import math
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.doubles.fakes import SMALL, FakeBackend, red_spots, write_bundle
from tests.support.factories import model_config
from tests.support.scenes import FAST, frames_of, photo, speech, spot, track
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR, VideoShape
from vexpress_rt.config import RETARGET_MODES, GenerationConfig
from vexpress_rt.diffusion.noise import frame_noise, torch_randn
from vexpress_rt.errors import InputError, NoFaceError
from vexpress_rt.face.keypoint_map import draw_keypoint_map
from vexpress_rt.face.retargeting import retarget
from vexpress_rt.media.recording import open_recording
from vexpress_rt.pipeline.generator import Generator

LATENT = (SMALL.latent_channels, 8, 8)


def drawings(backend: FakeBackend) -> np.ndarray:
    """Return the guider's keypoint maps for a video of one window, including surplus frames."""
    return backend.calls("pose_guider")[-1]["drawings"]


# Length


@given(st.integers(1, 9000), st.sampled_from([8000, 16000, 44100]), st.sampled_from([1, 12.5, 24, 25, 29.97, 30, 60]))
def test_a_video_has_exactly_as_many_frames_as_its_speech_needs(samples: int, rate: int, fps: float) -> None:
    waveform = open_recording((np.zeros(samples, np.float32), rate), 16000)
    exact = GenerationConfig(fps=fps).rate
    assert waveform.frame_count(exact) == math.ceil(Fraction(samples, rate) * exact)


@pytest.mark.parametrize(
    ("samples", "rate", "fps", "length"),
    [
        (160, 16000, 30, 1),  # 0.01 s
        (1, 16000, 30, 1),
        (3200, 16000, 30, 6),  # 0.2 s, exactly 6 frames
        (3201, 16000, 30, 7),
        (16016, 16000, 29.97, 30),  # 1.001 s, exactly 30 frames
        (16017, 16000, 29.97, 31),
        (14700, 44100, 25, 9),  # a third of a second
        (8000, 8000, 12.5, 13),
    ],
)
def test_frames_are_counted_exactly(generator: Generator, samples: int, rate: int, fps: float, length: int) -> None:
    config = GenerationConfig(steps=1, overlap=2, fps=fps)
    video = generator.generate(photo(), (np.zeros(samples, np.float32), rate), config=config)
    assert video.length == length
    assert frames_of(video).shape == (length, 64, 64, 3)
    assert frames_of(video).dtype == np.uint8
    assert video.fps == config.rate
    assert video.duration == pytest.approx(length / float(config.rate))


# PortraitEncoder


def test_a_photo_may_be_a_path_bytes_an_array_or_prepared(generator: Generator, tmp_path: Path) -> None:
    file = BytesIO()
    Image.fromarray(photo()).save(file, "PNG")
    (tmp_path / "photo.png").write_bytes(file.getvalue())
    sources = [photo(), file.getvalue(), tmp_path / "photo.png", str(tmp_path / "photo.png"),
               generator.prepare(photo())]  # fmt: skip
    first, *others = (frames_of(generator.generate(source, speech(), config=FAST)) for source in sources)
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_a_prepared_portrait_is_not_computed_again(generator: Generator, backend: FakeBackend) -> None:
    portrait = generator.prepare(photo())
    for _ in range(2):
        generator.generate(portrait, speech(), config=FAST)
    assert len(backend.calls("reference_net")) == len(backend.calls(FACE_DETECTOR)) == 1


def test_a_portrait_serves_another_generator_of_the_same_bundle(generator: Generator, fake_bundle: Path) -> None:
    portrait = generator.prepare(photo())
    expected = frames_of(generator.generate(portrait, speech(), config=FAST))
    with Generator(fake_bundle) as other:
        np.testing.assert_array_equal(frames_of(other.generate(portrait, speech(), config=FAST)), expected)


def test_a_portrait_of_another_bundle_is_refused(generator: Generator, tmp_path: Path, backend: FakeBackend) -> None:
    other = Generator(write_bundle(tmp_path / "other", shape=VideoShape(64, 64, 4)))
    with pytest.raises(InputError, match=f"prepared with bundle {other.bundle.identity}, .*: prepare it again"):
        generator.generate(other.prepare(photo()), speech())


def test_the_face_is_found_and_the_photo_cut_around_it(generator: Generator) -> None:
    portrait = generator.prepare(photo(height=128, width=256, x=180, y=60))
    assert portrait.keypoints is not None
    assert (portrait.crop.top, portrait.crop.width, portrait.crop.height) == (0, 128, 128)
    assert portrait.crop.left == pytest.approx(180 - 64, abs=1)
    np.testing.assert_allclose(portrait.keypoints, (spot(180, 60) - [portrait.crop.left, 0]) / 2, atol=1)


def test_of_several_faces_the_largest_is_the_portraits(generator: Generator) -> None:
    picture = red_spots(photo(height=128, width=256, x=60, y=60), *[(200 + dx, 64) for dx in (-3, 0, 3)])
    portrait = generator.prepare(picture)
    assert portrait.crop.left == 128


def test_a_photo_may_be_stretched_instead(generator: Generator) -> None:
    portrait = generator.prepare(photo(height=128, width=256, x=180, y=60), crop="none")
    assert portrait.keypoints is not None
    np.testing.assert_allclose(portrait.keypoints, spot(180, 60) / [4, 2], atol=1)


def test_keypoints_that_are_given_skip_the_detector(generator: Generator, backend: FakeBackend) -> None:
    points = np.array([[20, 20], [40, 20], [30, 33]], np.float32)
    portrait = generator.prepare(photo(), keypoints=points)
    np.testing.assert_array_equal(portrait.keypoints, points)
    assert sorted(backend.loads) == ["reference_net", "vae_encoder"]


def test_a_photo_without_a_face_can_be_driven_unchanged(generator: Generator, caplog: pytest.LogCaptureFixture) -> None:
    landscape = np.full((64, 128, 3), 90, np.uint8)
    with caplog.at_level(logging.WARNING):
        portrait = generator.prepare(landscape)
    assert portrait.keypoints is None
    assert portrait.crop.left == 32
    assert portrait.notes == ("photo: no face was found in it, so it is cut around its centre",)
    assert generator.prepare(landscape, crop="none").notes == ("photo: no face was found in it",)
    video = generator.generate(portrait, speech(0.1), keypoints=track(3), config=FAST)
    assert (video.length, video.notes[0]) == (3, portrait.notes[0])
    assert not caplog.records
    with pytest.raises(NoFaceError, match="fix_face needs the place of the face"):
        generator.generate(portrait, speech(0.1), config=FAST)


# PoseTrack


@pytest.mark.parametrize("mode", RETARGET_MODES)
def test_each_mode_draws_the_face_where_it_puts_it(generator: Generator, backend: FakeBackend, mode: str) -> None:
    portrait = generator.prepare(photo())
    video = generator.generate(portrait, speech(8 / 30), keypoints=track(8), retarget=mode, config=FAST)
    assert video.length == 8
    expected = retarget(track(8), portrait.keypoints, mode)
    np.testing.assert_array_equal(video.keypoints, expected)
    np.testing.assert_array_equal(drawings(backend), [draw_keypoint_map(points, 64, 64) for points in expected])


def test_without_keypoints_the_photos_face_is_held_still(generator: Generator, backend: FakeBackend) -> None:
    portrait = generator.prepare(photo())
    assert portrait.keypoints is not None
    generator.generate(portrait, speech(0.1), config=FAST)
    np.testing.assert_array_equal(drawings(backend), [draw_keypoint_map(portrait.keypoints, 64, 64)] * 8)


def test_what_was_decided_is_noted(generator: Generator) -> None:
    config = GenerationConfig(steps=1, overlap=2, extension="loop")
    video = generator.generate(photo(), speech(0.3), keypoints=track(4), config=config)
    assert video.notes == ("keypoints: 4 frames for 9 of the video, extended by loop",)


def test_repairs_of_the_photo_are_noted(generator: Generator) -> None:
    stream = BytesIO()
    Image.fromarray(photo()).save(stream, "JPEG", quality=95)
    portrait = generator.prepare(stream.getvalue()[:-2])
    expected = "photo: its last bytes are missing; all of its rows can be decoded"
    assert portrait.notes == (expected,)
    video = generator.generate(portrait, speech(0.1), config=GenerationConfig(steps=1, overlap=2))
    assert expected in video.notes


def test_a_talking_video_of_the_photos_size_drives_the_photo(
    generator: Generator, backend: FakeBackend, tmp_path: Path
) -> None:
    """Scene 1: keypoints and sound from one video, in its own pixels."""
    driving = tmp_path / "driving.mp4"
    with av.open(str(driving), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 256, 128, "yuv444p"
        for frame in range(8):
            picture = av.VideoFrame.from_ndarray(photo(128, 256, 160 + 4 * frame, 60), "rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    portrait = generator.prepare(photo(128, 256, 180, 60))
    generator.generate(portrait, speech(8 / 30), keypoints=driving, config=FAST)
    for frame, drawn in enumerate(drawings(backend)):
        points = (spot(160 + 4 * frame, 60) - [portrait.crop.left, 0]) / 2
        red = np.argwhere((drawn == [255, 0, 0]).all(axis=2)).mean(axis=0)[::-1]
        np.testing.assert_allclose(red, points[0], atol=2)


# The engines' inputs


def test_the_denoiser_gets_the_portraits_features(generator: Generator, backend: FakeBackend) -> None:
    portrait = generator.prepare(photo())
    generator.generate(portrait, speech(), config=FAST)
    for call in backend.calls("denoiser"):
        for name, array in portrait.reference.items():
            np.testing.assert_array_equal(call[name], array)


def test_speech_is_heard_normalised_if_the_model_was_trained_so(
    fake_bundle: Path, tmp_path: Path, backend: FakeBackend
) -> None:
    plain = model_config(block_out_channels=(8,), down_attention=(True,), up_attention=(False,), cross_attention_dim=12,
                         audio_normalize=False)  # fmt: skip
    heard = []
    for folder in (fake_bundle, write_bundle(tmp_path / "plain", model=plain)):
        with Generator(folder) as generator:
            generator.generate(photo(), speech(), config=FAST)
        heard.append(backend.calls("audio_encoder")[-1]["samples"][0])
    assert heard[0].std() == pytest.approx(1, abs=1e-3)
    np.testing.assert_array_equal(heard[1], speech()[0])


def test_silence_is_as_good_as_any_speech(generator: Generator) -> None:
    assert generator.generate(photo(), (np.zeros(3200, np.float32), 16000), config=FAST).length == 6


def test_what_is_heard_changes_the_video(generator: Generator) -> None:
    loud = frames_of(generator.generate(photo(), speech(), config=FAST))
    silent = frames_of(generator.generate(photo(), (np.zeros(4800, np.float32), 16000), config=FAST))
    assert (loud != silent).any()


# Noise


def first_latents(backend: FakeBackend, call: int = 0) -> np.ndarray:
    return backend.calls("denoiser")[call]["latents"]


def test_a_frames_noise_depends_on_the_seed_and_the_frame_alone(generator: Generator, backend: FakeBackend) -> None:
    expected = np.stack([frame_noise(7, frame, LATENT) for frame in range(8)])
    for seconds, keypoints in ((0.1, None), (0.6, None), (0.3, track(9))):
        calls = len(backend.calls("denoiser"))
        config = GenerationConfig(steps=1, overlap=2, seed=7)
        generator.generate(photo(), speech(seconds), keypoints=keypoints, config=config)
        np.testing.assert_array_equal(first_latents(backend, calls), expected)


def test_another_seed_gives_another_video(generator: Generator) -> None:
    one, two = (
        frames_of(generator.generate(photo(), speech(), config=GenerationConfig(steps=1, overlap=2, seed=seed)))
        for seed in (1, 2)
    )
    assert (one != two).any()


@pytest.mark.parametrize("seconds", [0.1, 8 / 30])
def test_upstreams_noise_is_torchs_after_a_draw_for_each_layer(
    generator: Generator, backend: FakeBackend, seconds: float
) -> None:
    """A video shorter than a window takes the noise of the whole window, as nothing shorter exists upstream."""
    generator.generate(photo(), speech(seconds), noise="upstream", config=FAST)
    expected = torch_randn(FAST.seed, (1, 4, 8, 8, 8), skip=SMALL.audio_layers)
    np.testing.assert_array_equal(first_latents(backend), expected[0].swapaxes(0, 1))


def test_the_noise_may_be_given(generator: Generator, backend: FakeBackend) -> None:
    given = np.random.default_rng(0).standard_normal((1, 4, 9, 8, 8)).astype(np.float32)
    generator.generate(photo(), speech(0.3), noise=given, config=GenerationConfig(steps=1, overlap=2))
    np.testing.assert_array_equal(first_latents(backend), given[0, :, :8].swapaxes(0, 1))
    np.testing.assert_array_equal(first_latents(backend, 1), given[0, :, 1:].swapaxes(0, 1))


def test_noise_that_was_given_is_continued_for_surplus_frames(generator: Generator, backend: FakeBackend) -> None:
    given = np.zeros((1, 4, 3, 8, 8), np.float32)
    generator.generate(photo(), speech(0.1), noise=given, config=FAST)
    expected = [*np.zeros((3, *LATENT)), *(frame_noise(FAST.seed, frame, LATENT) for frame in range(3, 8))]
    np.testing.assert_array_equal(first_latents(backend), expected)
