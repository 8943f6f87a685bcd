"""Videos of models with a guider of depth, with other guiders, and with none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from export.checkpoint.reader import Checkpoint
from tests.support.guided import write_guided
from tests.support.micro import MICRO_SHAPE
from tests.support.micro_videos import POINTS, RATE
from tests.support.scenes import frames_of, photo, speech
from tests.support.sound_files import write_wav
from vexpress_rt import Generator
from vexpress_rt.__main__ import main
from vexpress_rt.config import GenerationConfig
from vexpress_rt.errors import ConfigError, DepthError, NoFaceError
from vexpress_rt.face.keypoint_map import draw_keypoint_map
from vexpress_rt.pipeline.generator import Video

SIZE = (MICRO_SHAPE.height, MICRO_SHAPE.width)
DEPTH = np.random.default_rng(3).random((6, *SIZE), np.float32)
LENGTH = 6  # frames of the videos
FACELESS = np.full((32, 48, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def generators(
    micro_bundle: Path, depth_guider: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Generator]]:
    """Return generators by the guiders of their bundles; "released" is the bundle that names none."""
    folder, made = tmp_path_factory.mktemp("guided"), {"released": Generator(micro_bundle, provider="cpu")}
    for name, guiders in (("both", ("keypoints", "depth")), ("depth", ("depth",)), ("none", ())):
        bundle = write_guided(folder / name, micro_bundle, depth_guider, guiders)
        made[name] = Generator(bundle, provider="cpu")
    yield made
    for generator in made.values():
        generator.close()


def make(generator: Generator, picture: np.ndarray | None = None, *, config: Any = None, **options: Any) -> Video:
    """Generate a video of LENGTH frames."""
    settings = GenerationConfig(steps=1, overlap=1, fps=30, sampler="ddim", **(config or {}))
    read = generator.read_photo(photo() if picture is None else picture, keypoints=options.pop("face", None))
    return generator.generate(read, speech(0.2, RATE), config=settings, **options)


MOVING = POINTS + np.arange(LENGTH, dtype=np.float32)[:, None, None] / 2


def test_a_guider_that_gets_nothing_changes_no_frame(generators: dict[str, Generator]) -> None:
    expected = make(generators["released"], keypoints=MOVING)
    found = make(generators["both"], keypoints=MOVING)
    np.testing.assert_array_equal(frames_of(found), frames_of(expected))
    assert found.notes == expected.notes
    without = make(generators["both"], keypoints=MOVING, depth=DEPTH, config={"depth_weight": 0})
    np.testing.assert_array_equal(frames_of(without), frames_of(expected))


def test_both_signals_and_their_weights_move_the_picture(generators: dict[str, Generator]) -> None:
    both = generators["both"]
    videos = [
        make(both, keypoints=MOVING),
        make(both, keypoints=MOVING, depth=DEPTH),
        make(both, keypoints=MOVING, depth=DEPTH, config={"depth_weight": 3}),
        make(both, keypoints=MOVING, depth=DEPTH, config={"pose_weight": 3}),
        make(both, depth=DEPTH),
        make(both, depth=1 - DEPTH),
    ]
    pictures = [frames_of(video).tobytes() for video in videos]
    assert len(set(pictures)) == len(pictures)
    again = make(both, keypoints=MOVING, depth=np.rint(DEPTH * 65535).astype(np.uint16))
    assert np.abs(frames_of(again).astype(int) - frames_of(videos[1])).max() <= 1


def test_the_pose_feature_is_the_modules_weighted_sum(generators: dict[str, Generator], depth_checkpoint: Path) -> None:
    both = generators["both"]
    runner, settings = both._runner, both.bundle.manifest.settings(GenerationConfig(pose_weight=0.5, depth_weight=2))
    frames, checkpoint = range(MICRO_SHAPE.frames), Checkpoint(depth_checkpoint)

    class Track:
        picture = staticmethod(DEPTH.__getitem__)

    spatial = runner._spatial(settings, MOVING.__getitem__, Track())  # type: ignore[arg-type]
    (found,) = spatial(spatial.pictures(frames)).values()
    drawn = np.stack([draw_keypoint_map(MOVING[frame], *SIZE) for frame in frames])
    maps = torch.from_numpy(drawn).permute(0, 3, 1, 2) / 255
    depth = torch.from_numpy(DEPTH[: len(frames)])[:, None].repeat(1, 3, 1, 1)
    with torch.no_grad():
        expected = 0.5 * checkpoint.network("v_kps_guider")(maps) + 2 * checkpoint.network("depth_guider")(depth)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_depth_alone_needs_no_face_and_leaves_the_keypoints_out(generators: dict[str, Generator]) -> None:
    video = make(generators["both"], FACELESS, depth=DEPTH)
    assert (video.length, video.keypoints.shape) == (LENGTH, (0, 3, 2))
    assert "depth: no keypoints are given, and the depth alone places the head" in video.notes
    assert "depth: 6 frames, as many as the video has" in video.notes
    alone = make(generators["depth"], FACELESS, depth=DEPTH)
    np.testing.assert_array_equal(frames_of(alone), frames_of(video))


def test_a_retargeting_mode_holds_the_photos_face_beside_the_depth(generators: dict[str, Generator]) -> None:
    both = generators["both"]
    with pytest.raises(NoFaceError):
        make(both, FACELESS, depth=DEPTH, retarget="fix_face")
    held = make(both, depth=DEPTH, retarget="fix_face", face=POINTS + 20)
    assert held.keypoints.shape == (LENGTH, 3, 2)
    weighted = make(both, depth=DEPTH, retarget="fix_face", face=POINTS + 20, config={"pose_weight": 0})
    alone = make(both, depth=DEPTH, face=POINTS + 20)
    np.testing.assert_array_equal(frames_of(weighted), frames_of(alone))
    assert (frames_of(held) != frames_of(alone)).any()


def test_a_model_without_guiders_makes_videos(generators: dict[str, Generator]) -> None:
    video = make(generators["none"], FACELESS)
    assert (video.length, video.keypoints.shape) == (LENGTH, (0, 3, 2))
    np.testing.assert_array_equal(frames_of(make(generators["depth"], FACELESS)), frames_of(video))
    unweighted = make(generators["both"], FACELESS, depth=DEPTH, config={"depth_weight": 0})
    np.testing.assert_array_equal(frames_of(unweighted), frames_of(video))
    generators["none"].load()


def test_a_generator_names_its_guiders(generators: dict[str, Generator]) -> None:
    named = {name: generator.describe().splitlines()[3] for name, generator in generators.items()}
    assert named == {
        "released": "guiders:   keypoints", "both": "guiders:   keypoints, depth", "depth": "guiders:   depth",
        "none": "guiders:   none",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bundle", "given", "message"),
    [
        (
            "released",
            {"depth": DEPTH},
            "depth is given, and this bundle has no guider of depth (its guiders: keypoints): leave",
        ),
        ("none", {"depth": DEPTH}, "this bundle has no guider of depth (its guiders: none): leave"),
        (
            "none",
            {"keypoints": MOVING},
            "keypoints is given, and this bundle has no guider of keypoints (its guiders: none)",
        ),
        ("depth", {"keypoints": MOVING}, "no guider of keypoints (its guiders: depth)"),
        ("depth", {"retarget": "fix_face"}, "retarget is given, and this bundle has no guider of keypoints"),
    ],
)
@pytest.mark.parametrize("call", ["generate", "stream", "live"])
def test_a_signal_without_a_guider_is_refused(
    generators: dict[str, Generator], bundle: str, given: dict[str, Any], message: str, call: str
) -> None:
    arguments = (FACELESS,) if call == "live" else (FACELESS, speech(0.2, RATE))
    with pytest.raises(ConfigError, match=re.escape(message)):
        getattr(generators[bundle], call)(*arguments, **given)


def test_depth_that_cannot_be_used_is_refused(generators: dict[str, Generator]) -> None:
    with pytest.raises(DepthError, match="values of 0"):
        make(generators["both"], depth=9 * DEPTH)


@pytest.mark.parametrize("bundle", ["both", "depth"])
def test_a_live_session_follows_the_depth(generators: dict[str, Generator], bundle: str) -> None:
    config = GenerationConfig(steps=1, overlap=1, fps=30, sampler="ddim")
    images = []
    for depth in (DEPTH, DEPTH[::-1], None):
        options = {} if depth is None else {"depth": depth}
        if depth is None and bundle == "both":
            continue
        with generators[bundle].live(FACELESS, config=config, sample_rate=RATE, **options) as session:  # type: ignore[arg-type]
            session.push(speech(0.2, RATE)[0])
            session.flush()
            images.append(np.stack([frame.image for frame in session.frames()]))
            alone = "depth: no keypoints are given, and the depth alone places the head" in session.notes
            assert alone == (depth is not None)
    assert len({image.tobytes() for image in images}) == len(images)


def test_the_command_line_takes_depth(
    generators: dict[str, Generator], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "depth.npz", depth=DEPTH)
    np.save(tmp_path / "wrong.npy", 2 * DEPTH)
    write_wav(tmp_path / "speech.wav", speech(0.2, RATE)[0][None], RATE)
    Image.fromarray(FACELESS).save(tmp_path / "photo.png")

    def run(depth: str, bundle: str = "both") -> int:
        return main(
            [
                "generate", "--engines", str(generators[bundle].bundle.folder), "--image", str(tmp_path / "photo.png"),
                "--audio", str(tmp_path / "speech.wav"), "--output", str(tmp_path / "video.mp4"), "--provider", "cpu",
                "--steps", "1", "--overlap", "1", "--depth", str(tmp_path / depth), "--depth-weight", "0.5",
            ]
        )  # fmt: skip

    assert run("depth.npz") == 0
    assert "note: depth: no keypoints are given" in capsys.readouterr().out
    assert (tmp_path / "video.mp4").stat().st_size > 0
    for depth, bundle, message in (
        ("wrong.npy", "both", "depth maps hold values of 0"),
        ("none.npy", "both", "--depth is .*none.npy, and there is no such file"),
        ("depth.npz", "released", r"no guider of depth \(its guiders: keypoints\): leave depth= or --depth out"),
    ):
        assert run(depth, bundle) != 0
        error = capsys.readouterr().err
        assert re.search(message, error), error
