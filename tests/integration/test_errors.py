"""Every error of the public interface: its class, and the value found, the expectation and the remedy in its message.

For each case, the output folder stays empty and the generator continues to work.
"""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import vexpress_rt
from tests.doubles.fakes import SMALL, write_bundle
from tests.support.error_tree import BUILTINS, check
from tests.support.scenes import FAST, photo, speech, track
from vexpress_rt import (
    AudioError,
    ConfigError,
    GenerationConfig,
    Generator,
    ImageError,
    InputError,
    KeypointError,
    NoFaceError,
    OutputError,
    VExpressError,
    VideoError,
)
from vexpress_rt.bundle.engine_spec import VideoShape


@dataclass
class Room:
    """The surroundings of a case: folders for files and output, and a generator with fake engines."""

    folder: Path
    output: Path
    generator: Generator

    def file(self, name: str, content: bytes) -> Path:
        """Write a file and return its path."""
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def picture(self, kind: str, frames: int = 1) -> bytes:
        """Return the bytes of a picture file."""
        pictures = [Image.fromarray(photo(x=20 + 10 * frame)) for frame in range(frames)]
        file = BytesIO()
        pictures[0].save(file, kind, save_all=frames > 1, **({"append_images": pictures[1:]} if frames > 1 else {}))
        return file.getvalue()

    def video(self, name: str, pictures: int) -> Path:
        """Write a video without a face and without sound."""
        with av.open(str(self.folder / name), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.width = stream.height = 64
            for _ in range(pictures):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")))
            container.mux(stream.encode())
        return self.folder / name

    def other(self, **changes: Any) -> Generator:
        """Return a generator of another bundle."""
        return Generator(write_bundle(self.folder / "other", **changes))

    def generate(self, **changes: Any) -> vexpress_rt.Video:
        """Generate a video of 9 frames from valid inputs with `changes`."""
        values = {"portrait": photo(), "audio": speech(), "config": FAST, "output": self.output / "out.mp4"} | changes
        return self.generator.generate(values.pop("portrait"), values.pop("audio"), **values)


@pytest.fixture
def room(tmp_path: Path, generator: Generator) -> Room:
    for name in ("files", "output"):
        (tmp_path / name).mkdir()
    return Room(tmp_path / "files", tmp_path / "output", generator)


Wrong = Callable[[Room], Any]
CASES: dict[str, tuple[type[VExpressError], Wrong, tuple[str, ...]]] = {}


def case(name: str, kind: type[VExpressError], wrong: Wrong, *texts: str) -> None:
    """Add a case: `wrong` raises an error of `kind` whose message matches `texts`: found, expected, remedy."""
    assert name not in CASES
    CASES[name] = kind, wrong, texts


# Speech

case("a recording that does not exist", AudioError, lambda r: r.generate(audio=r.folder / "none.wav"),
     r"none\.wav does not exist", "expected a sound or video file", "check the path")  # fmt: skip
case("a recording that is none", AudioError, lambda r: r.generate(audio=r.file("a.mp3", b"no sound at all " * 9)),
     r"a\.mp3 cannot be read", "expected a sound or video file such as WAV", "convert it")  # fmt: skip
case("an empty recording", AudioError, lambda r: r.generate(audio=r.file("a.wav", b"")),
     r"a\.wav cannot be read", "expected a sound", "check that it plays")  # fmt: skip
case("a recording without samples", AudioError, lambda r: r.generate(audio=(np.empty(0, np.float32), 16000)),
     r"shape \(0,\)", "expected at least one channel and one sample")  # fmt: skip
case("a recording of 0 channels", AudioError, lambda r: r.generate(audio=(np.empty((0, 99), np.float32), 16000)),
     r"shape \(0, 99\)", "expected at least one channel")  # fmt: skip
case("a video without sound as speech", AudioError, lambda r: r.generate(audio=r.video("mute.mp4", 3)),
     "holds video but no sound", "expected speech", "check the file")  # fmt: skip
case("speech that is not finite", AudioError, lambda r: r.generate(audio=(np.full(99, np.nan, np.float32), 16000)),
     "99 audio samples are NaN or infinite", "clean them")  # fmt: skip

# Photos

case("a photo that does not exist", ImageError, lambda r: r.generate(portrait="none.jpg"),
     r"none\.jpg does not exist", "expected a picture file", "check the path")  # fmt: skip
case("a truncated photo", ImageError, lambda r: r.generate(portrait=r.picture("JPEG")[:-200]),
     "damaged, truncated", "expected a whole picture", "transfer it again")  # fmt: skip
case("an animation as a photo", ImageError, lambda r: r.generate(portrait=r.picture("GIF", frames=3)),
     "GIF of several frames", "expected one picture", "save one of them")  # fmt: skip
case("a file that is no photo", ImageError, lambda r: r.generate(portrait=r.file("a.png", b"no picture")),
     r"a\.png is not a picture", "expected one of AVIF, BMP", "convert it")  # fmt: skip
case("a photo array of floats", ImageError, lambda r: r.generate(portrait=np.zeros((64, 64, 3))),
     "dtype float64", r"expected \(H, W, 3\) uint8 RGB", "scale other dtypes")  # fmt: skip
case("a portrait of another bundle", InputError,
     lambda r: r.generate(portrait=r.other(shape=VideoShape(64, 64, 4)).prepare(photo())),
     "was prepared with bundle [0-9a-f]{16}", "this one is [0-9a-f]{16}", "prepare it again")  # fmt: skip

# Keypoints and faces

case("a track with NaN", KeypointError, lambda r: r.generate(keypoints=np.full((9, 3, 2), np.nan)),
     "NaN or infinite in 9 of 9 frames", "interpolate or drop those frames")  # fmt: skip
case("a photo's keypoints with NaN", KeypointError,
     lambda r: r.generator.prepare(photo(), keypoints=np.full((3, 2), np.nan)),
     "NaN or infinite", "before passing the track in")  # fmt: skip
case("a face wholly outside the picture", KeypointError, lambda r: r.generate(keypoints=track(9) + 100),
     "wholly outside the picture of 64 x 64 pixels .* in frames 0-8",
     "give keypoints in pixels of the picture")  # fmt: skip
case("a photo's face wholly outside it", KeypointError,
     lambda r: r.generator.prepare(photo(), keypoints=track(1)[0] + 99),
     "wholly outside the picture of 64 x 64 pixels", "give keypoints in pixels of this picture")  # fmt: skip
case("a face of five points", KeypointError, lambda r: r.generate(keypoints=np.zeros((9, 5, 2))),
     r"shape \(9, 5, 2\)", r"expected \(frames, 3, 2\)", r"points\[\.\.\., :3, :\]")  # fmt: skip
case("a track that runs a program", KeypointError,
     lambda r: r.generate(keypoints=r.file("a.pth", pickle.dumps(os.getcwd))),
     r"asks for \w+\.getcwd", "expected arrays and nothing else", r"numpy\.save")  # fmt: skip
case("a driving video that is none", VideoError, lambda r: r.generate(keypoints=r.file("a.mp4", b"no video " * 99)),
     r"a\.mp4 cannot be read", "expected a sound or video file", r"files of keypoints end in \.npy")  # fmt: skip
case("a photo without a face", NoFaceError, lambda r: r.generate(portrait=np.zeros((64, 64, 3), np.uint8)),
     "fix_face needs the place of the face", "no face was found", "Give the photo's keypoints")  # fmt: skip
case("a driving video without a face", NoFaceError, lambda r: r.generate(keypoints=r.video("faceless.mp4", 5)),
     "no face was found in any of the driving video's 5 frames", "expected one in nearly every frame",
     "give keypoints from a file")  # fmt: skip

# Options

case(
    "no steps", ConfigError, lambda r: GenerationConfig(steps=0), "steps is 0", "expected a whole number of at least 1"
)
case("an overlap of a whole window", ConfigError, lambda r: r.generate(config=GenerationConfig(overlap=8)),
     "overlap is 8", "expected less than the bundle's window of 8 frames", "choose 0 to 7")  # fmt: skip
case("an option that does not exist", ConfigError, lambda r: GenerationConfig(stepz=3),  # type: ignore[call-arg]
     "'stepz' is no option", "expected preset, steps, sampler", "did you mean 'steps'")  # fmt: skip
case("a rate that does not exist", ConfigError, lambda r: GenerationConfig(fps="fast"),
     "fps is 'fast'", "expected frames per second between 1 and 240")  # fmt: skip
case("an extension that does not exist", ConfigError, lambda r: GenerationConfig(extension="repeat"),
     "extension is 'repeat'", "expected one of stretch, hold, loop, mirror")  # fmt: skip
case("a retargeting that does not exist", ConfigError, lambda r: r.generate(retarget="fix"),
     "retarget is 'fix'", "expected one of no_retarget, fix_face")  # fmt: skip
case("a retargeting of nothing", ConfigError, lambda r: r.generate(retarget="naive_retarget"),
     "there are none", "give a file of keypoints or a driving video")  # fmt: skip
case("a crop that does not exist", ConfigError, lambda r: r.generator.prepare(photo(), crop="centre"),
     "crop is 'centre'", "expected one of face, none")  # fmt: skip
case("a provider that does not exist", ConfigError, lambda r: Generator(r.generator.bundle.folder, provider="abacus"),
     "provider is 'abacus'", "expected one of auto")  # fmt: skip
case("no threads", ConfigError, lambda r: Generator(r.generator.bundle.folder, threads=0),
     "threads is 0", "expected a whole number of at least 1", "or None for one per core")  # fmt: skip
case("more steps than the model was trained on", ConfigError,
     lambda r: r.other(model=replace(SMALL, train_timesteps=500)).generate(
         photo(), speech(), config=GenerationConfig(overlap=2, steps=501), output=r.output / "out.mp4"),
     "steps is 501", "expected 1 to 500, the timesteps that the model was trained on")  # fmt: skip

# Noise

case("a noise that does not exist", ConfigError, lambda r: r.generate(noise="white"),
     "noise is 'white'", "expected one of upstream")  # fmt: skip
case("noise of another length", InputError, lambda r: r.generate(noise=np.zeros((1, 4, 8, 8, 8), np.float32)),
     r"noise has shape \(1, 4, 8, 8, 8\)", r"expected \(1, 4, 9, 8, 8\) float32", "or None, or 'upstream'")  # fmt: skip
case("noise of another dtype", InputError, lambda r: r.generate(noise=np.zeros((1, 4, 9, 8, 8))),
     "dtype float64", r"expected \(1, 4, 9, 8, 8\) float32")  # fmt: skip
case("noise that is not finite", InputError, lambda r: r.generate(noise=np.full((1, 4, 9, 8, 8), np.inf, np.float32)),
     "noise holds NaN or infinite values", "expected finite ones")  # fmt: skip

# Output

case("an output folder that does not exist", OutputError, lambda r: r.generate(output=r.output / "none" / "out.mp4"),
     "there is no folder .*none", "create it first")  # fmt: skip
case("a folder as output", OutputError, lambda r: (r.folder / "a.mp4").mkdir() or r.generate(output=r.folder / "a.mp4"),
     r"cannot write .*a\.mp4: it is a folder", "expected the name of a file")  # fmt: skip
case("a kind of video that is not written", OutputError, lambda r: r.generate(output=r.output / "out.avi"),
     r"its extension is '\.avi'", r"expected \.mp4, \.mov, \.mkv")  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_error_says_what_was_found_what_was_expected_and_what_to_do(room: Room, name: str) -> None:
    kind, wrong, texts = CASES[name]
    with pytest.raises(VExpressError) as caught:
        wrong(room)
    check(caught.value, kind, texts)
    assert list(room.output.iterdir()) == []
    assert room.generate().length == 9


def test_a_full_disk_is_told_and_leaves_nothing(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("vexpress_rt.media.video_writer.os.fsync", full)
        with pytest.raises(OutputError) as caught:
            room.generate()
    check(caught.value, OutputError, ("No space left on device", "MB free in", "make room or choose another folder"))
    assert list(room.output.iterdir()) == []
    assert room.generate().length == 9


# The tree


def test_every_error_of_the_tree_has_its_builtin_here() -> None:
    tree = {getattr(vexpress_rt, name) for name in vexpress_rt.__all__ if name.endswith("Error")}
    without = {VExpressError, vexpress_rt.BundleError, vexpress_rt.CancelledError}  # bases, and one that is no fault
    assert tree - set(BUILTINS) == without


@pytest.mark.parametrize("kind", BUILTINS, ids=lambda kind: kind.__name__)
def test_an_error_is_caught_as_one_of_the_tree_and_as_the_builtin_it_resembles(kind: type[VExpressError]) -> None:
    for caught in (VExpressError, BUILTINS[kind]):
        with pytest.raises(caught, match="found"):
            raise kind("found")
