"""Compare the videos of two checkouts bit for bit: `python scripts/compare_frames.py /path/to/other/checkout`.

This checkout draws the inputs once. Each checkout runs every case with its own Python, code and shipped bundle. The
script compares frames, keypoints and sound of each case; for a file, the decoded pictures and the decoded samples of
the sound track. It prints a table of the cases; the exit code is 1 if any case differs.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
START, SECONDS, FPS = 0.3, 1.0, 30  # seconds: start and length of the excerpt of demo/speech.flac; frames a second
THREADS = 2  # fixed, because the order of floating-point sums may depend on it
STEPS = 3  # denoising steps, except in presets
PUSHES = (1, 7, 160, 333, 1024, 4001)  # samples of one push to a live session, in turn


@dataclass(frozen=True)
class Digest:
    """SHA-256 digests of the result of one case, as hexadecimal digits.

    Attributes:
        count: Number of frames.
        frames: Digest of the pictures.
        keypoints: Digest of the keypoints; empty if the case has none.
        sound: Digest of the sound; empty if the case has none.
    """

    count: int
    frames: str
    keypoints: str
    sound: str


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkout", type=Path, help="folder of the other checkout")
    add("--python", type=Path, help="the other checkout's Python (default: CHECKOUT/.venv/bin/python)")
    add("--cache", type=Path, metavar="FILE", help="keep the other checkout's results here, for its commit and inputs")
    add("--only", nargs="+", choices=CASES, metavar="CASE", help=f"of {'; '.join(CASES)} (default: all)")
    add("--worker", type=Path, metavar="INPUTS", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.only or list(CASES)
    if given.worker is not None:
        return run_cases(given.checkout, given.worker, names)
    other = given.checkout.resolve()
    python = given.python or other / ".venv" / "bin" / "python"
    with tempfile.TemporaryDirectory(prefix="compare_frames_") as folder:
        inputs = Path(folder)
        draw_inputs(inputs)
        before = cached_digests(other, python, inputs, names, given.cache)
        after = digests(ROOT, sys.executable, inputs, names)
    return report(names, before, after)


def cached_digests(
    checkout: Path, python: Path, inputs: Path, names: list[str], cache: Path | None
) -> dict[str, Digest]:
    """Return the digests of a checkout's cases; take known ones from a cache file, and add new ones to it.

    The cache's keys are the checkout's commit and a digest of the inputs. Without a cache, all cases are run.
    """
    if cache is None:
        return digests(checkout, python, inputs, names)
    describe = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"]
    commit = subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
    drawn = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(inputs.iterdir()))).hexdigest()
    everything = json.loads(cache.read_text()) if cache.exists() else {}
    known = {name: Digest(**values) for name, values in everything.get(f"{commit} {drawn}", {}).items()}
    if missing := [name for name in names if name not in known]:
        known |= digests(checkout, python, inputs, missing)
        everything[f"{commit} {drawn}"] = {name: asdict(digest) for name, digest in known.items()}
        cache.write_text(json.dumps(everything, indent=1))
    return known


def digests(checkout: Path, python: str | Path, inputs: Path, names: list[str]) -> dict[str, Digest]:
    """Run cases in a checkout, with its Python; return their digests by name."""
    command = [str(python), str(Path(__file__).resolve()), str(checkout), "--worker", str(inputs), "--only", *names]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = {}
        for line in process.stdout:
            name, values = json.loads(line)
            found[name] = Digest(**values)
            print(f"{checkout}: {name}", file=sys.stderr, flush=True)
    if process.returncode:
        raise SystemExit(f"error: {checkout}: {python} ended with exit code {process.returncode}")
    return found


def report(names: list[str], other: Mapping[str, Digest], own: Mapping[str, Digest]) -> int:
    """Print the table of cases; return 1 if any case differs."""
    width = max(map(len, names))
    print(f"{'case':{width}}  frames  sha256 of the frames  frames  keypoints  sound")
    same = 0
    for name in names:
        before, after = other[name], own[name]
        verdicts = [
            {True: "equal", False: "DIFFER"}[getattr(before, part) == getattr(after, part)]
            for part in ("frames", "keypoints", "sound")
        ]
        same += before == after
        print(f"{name:{width}}  {after.count:6}  {after.frames[:20]}  {verdicts[0]:6}  {verdicts[1]:9}  {verdicts[2]}")
    print(f"{same} of {len(names)} cases are equal bit for bit")
    return int(same < len(names))


def draw_inputs(folder: Path) -> None:
    """Write the inputs of all cases into a folder: photo, keypoints, driving video, two recordings."""
    sys.path.insert(0, str(ROOT))  # the demo is not installed
    from demo.inputs import SPEECH, make_inputs

    rate = 16000  # of that recording
    speech = decoded_sound(SPEECH)[0, int(START * rate) : int((START + SECONDS) * rate)]
    write_wav(folder / "speech.wav", speech[:, None], rate)
    noise = np.random.default_rng(1).normal(0, 150, (len(speech), 2)).astype(np.int16)
    quiet = np.concatenate([np.zeros(len(speech) // 2, np.int16), speech[: (len(speech) + 1) // 2]])
    write_wav(folder / "noisy.wav", noise + quiet[:, None], 22050)
    made = make_inputs(folder, folder / "speech.wav", (128, 128), Fraction(FPS))
    made.sitters[0].photo.rename(folder / "photo.png")
    made.sitters[0].keypoints.rename(folder / "keypoints.npy")
    made.driving.rename(folder / "driving.mp4")


def write_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """Write samples (n, channels) int16."""
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.ascontiguousarray(samples, "<i2").tobytes())


def decoded_sound(path: Path) -> np.ndarray:
    """Return all decoded samples of a file's first sound track, (1, n) for mono, in the codec's dtype."""
    with av.open(str(path)) as file:
        return np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)


def sha256(arrays: Iterable[np.ndarray]) -> str:
    """Return the digest of the arrays' shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


# The code below runs in both checkouts. It uses only public names, and adapts to names that differ between versions.


@dataclass(frozen=True)
class Inputs:
    """A generator of the shipped bundle, and the folder with the inputs."""

    generator: Any
    folder: Path

    @property
    def photo(self) -> Path:
        return self.folder / "photo.png"

    @property
    def speech(self) -> Path:
        return self.folder / "speech.wav"


def run_cases(checkout: Path, folder: Path, names: Iterable[str]) -> int:
    """Run cases with the package of a checkout; print a JSON line [name, digest] for each."""
    import vexpress_rt

    place = Path(vexpress_rt.__file__).resolve()
    if not place.is_relative_to(checkout.resolve()):
        raise SystemExit(f"error: {sys.executable} imports vexpress_rt from {place}; expected it below {checkout}")
    with vexpress_rt.Generator(provider="cpu", threads=THREADS) as generator:
        for name in names:
            print(json.dumps([name, asdict(CASES[name](Inputs(generator, folder)))]), flush=True)
    return 0


def options(**chosen: Any) -> Any:
    """Return a GenerationConfig with the given options, and STEPS steps unless a preset sets them."""
    from vexpress_rt import GenerationConfig

    known = {field.name for field in fields(GenerationConfig)}
    if "uncond_interval" in chosen and "uncond_interval" not in known:
        chosen["unconditional_every"] = chosen.pop("uncond_interval")  # before 0.2
    if "preset" not in chosen:
        chosen.setdefault("steps", STEPS)
    return GenerationConfig(**chosen)


def step_major(generator: Any) -> dict[str, str]:
    """Return the argument of `stream` for the window order that takes each step over the whole video."""
    if "schedule" in inspect.signature(generator.stream).parameters:  # before 0.2
        return {"schedule": "breadth"}
    return {"window_order": "step_major"}


def kept(inputs: Inputs, *, speech: str = "speech.wav", config: Any = None, **arguments: Any) -> Digest:
    """Return the digest of a video whose frames are kept."""
    video = inputs.generator.generate(
        inputs.photo, inputs.folder / speech, config=config or options(), keep_frames=True, **arguments
    )
    return Digest(video.length, sha256(video.frames), sha256([video.keypoints]), "")


def written(inputs: Inputs, **arguments: Any) -> Digest:
    """Return the digest of a video file: of its decoded pictures and its decoded sound track."""
    path = inputs.folder / f"written_{os.getpid()}.mp4"
    video = inputs.generator.generate(
        inputs.photo, inputs.speech, config=options(), output=path, keep_frames=True, **arguments
    )
    pictures = decoded_pictures(path)
    assert len(pictures) == video.length
    found = Digest(
        video.length, sha256([*video.frames, *pictures]), sha256([video.keypoints]), sha256([decoded_sound(path)])
    )
    path.unlink()
    return found


def decoded_pictures(path: Path) -> list[np.ndarray]:
    """Return the decoded pictures of a video."""
    with av.open(str(path)) as file:
        return [frame.to_ndarray() for frame in file.decode(video=0)]


def streamed(inputs: Inputs, **arguments: Any) -> Digest:
    """Return the digest of a stream; its frames must equal those of `generate`."""
    with inputs.generator.stream(inputs.photo, inputs.speech, config=options(), **arguments) as frames:
        pictures = list(frames)
    found = Digest(len(pictures), sha256(pictures), sha256([frames.keypoints]), "")
    if found != kept(inputs, **arguments):
        raise SystemExit("error: the frames of stream differ from those of generate")
    return found


def live(inputs: Inputs, *, interrupted: bool = False, rate: int | None = None, **arguments: Any) -> Digest:
    """Return the digest of a live session with alternating pulls and pushes of irregular sizes."""
    samples = decoded_sound(inputs.speech)[0]
    with inputs.generator.live(inputs.photo, config=options(), look_ahead=0.1, **arguments) as session:
        frames, start, turn = [], 0, 0
        while start < len(samples):
            part = samples[start : start + PUSHES[turn % len(PUSHES)]]
            session.push(part if turn % 2 else part.astype(np.float32) / 32768, rate)
            start, turn = start + len(part), turn + 1
            frames += session.frames()
            if interrupted and len(frames) >= 8:
                session.interrupt()
                interrupted = False
        session.flush()
        frames += session.frames()
        frames += [session.pull(idle=True) for _ in range(3)]
    return Digest(len(frames), sha256(f.image for f in frames), "", sha256(f.samples for f in frames))


def command(inputs: Inputs) -> Digest:
    """Return the digest of the file that the command line writes."""
    path = inputs.folder / f"command_{os.getpid()}.mp4"
    line = [sys.executable, "-m", "vexpress_rt", "generate", "--image", inputs.photo, "--audio", inputs.speech]
    line += ["--output", path, "--steps", str(STEPS), "--threads", str(THREADS)]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pictures = decoded_pictures(path)
    found = Digest(len(pictures), sha256(pictures), "", sha256([decoded_sound(path)]))
    path.unlink()
    return found


def array_photo(inputs: Inputs) -> Digest:
    """Return the digest of a video from a prepared photo and samples in memory."""
    with av.open(str(inputs.photo)) as file:
        picture = next(file.decode(video=0)).to_ndarray(format="rgb24")
    portrait = inputs.generator.prepare(picture, crop="none")
    samples = decoded_sound(inputs.speech)[0].astype(np.float32) / 32768
    video = inputs.generator.generate(portrait, (samples, 24000), config=options())
    return Digest(video.length, sha256(video.frames), sha256([video.keypoints]), "")


def track(inputs: Inputs) -> Digest:
    """Return the digest of a video driven by a short keypoint track of a larger picture at a lower rate."""
    from vexpress_rt import KeypointTrack

    points = np.load(inputs.folder / "keypoints.npy")[:9] * 4
    made = KeypointTrack(points, fps=Fraction(15), size=(512, 512))
    return kept(inputs, keypoints=made, retarget="offset_retarget", config=options(extension="mirror"))


CASES: dict[str, Callable[[Inputs], Digest]] = {
    "file, fix_face": lambda i: written(i, retarget="fix_face"),
    "file, led by keypoints": lambda i: written(i, keypoints=i.folder / "keypoints.npy", retarget="no_retarget"),
    "file, led by a video": lambda i: written(i, keypoints=i.folder / "driving.mp4", retarget="naive_retarget"),
    "command line": command,
    "stream": streamed,
    "stream, led by a video": lambda i: streamed(
        i, keypoints=i.folder / "driving.mp4", retarget="offset_retarget"
    ),
    "step-major": lambda i: streamed(i, **step_major(i.generator)),
    "live": live,
    "live, interrupted, 22.05 kHz": lambda i: live(i, interrupted=True, rate=22050),
    "live, led by keypoints": lambda i: live(i, keypoints=i.folder / "keypoints.npy"),
    "track of 15 fps, mirrored": track,
    "photo and samples in memory": array_photo,
    "upstream's noise": lambda i: kept(i, noise="upstream"),
    "upstream's anchor": lambda i: kept(
        i, keypoints=i.folder / "driving.mp4", retarget="naive_retarget", config=options(upstream_anchor=True)
    ),
    "ddim": lambda i: kept(i, config=options(sampler="ddim")),
    "dpm++2m": lambda i: kept(i, config=options(sampler="dpm++2m")),
    "unipc": lambda i: kept(i, config=options(sampler="unipc")),
    "preset exact": lambda i: kept(i, config=options(preset="exact")),
    "preset balanced": lambda i: kept(i, config=options(preset="balanced")),
    "preset fast": lambda i: kept(i, config=options(preset="fast")),
    "guidance in part": lambda i: kept(
        i, config=options(steps=6, guidance_scale=3.5, guidance_interval=(0.0, 0.6), uncond_interval=2)
    ),
    "no guidance": lambda i: kept(i, config=options(guidance_scale=1)),
    "noisy recording": lambda i: kept(i, speech="noisy.wav"),
    "noisy recording, no noise gate": lambda i: kept(i, speech="noisy.wav", config=options(noise_gate=False)),
    "25 fps, overlap 0, no median": lambda i: kept(i, config=options(fps=25, overlap=0, median_filter=False, seed=7)),
    "attention weights": lambda i: kept(
        i, config=options(reference_attention_weight=0.9, audio_attention_weight=1.5)
    ),
}  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
