"""Measure speed and quality of presets and precisions: the small model on people that were not in its training data.

    python -m benchmarks.quality --people 2 --seconds 1.5
    python -m benchmarks.quality --precisions               # the providers on the CPU, instead of the presets

Each person speaks and moves their head. The reference is a video by DDIM in 200 steps. Each preset, and the settings
that the bundle recommends, make the same clip from the same noise. The table has the speed-up over `exact`, PSNR to the
reference, correlation of the mouth's opening with the speech, and distance of the nose from its keypoint. Guidance and
attention weights are the bundle's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu.effort import QUICK, WHOLE, Effort
from benchmarks.cpu.pairs import QUIET, sides_figures
from benchmarks.cpu.runtimes import CPU, RUNTIMES, described_precision, open_generators
from benchmarks.gpu.compare import psnr, worst_frame
from benchmarks.gpu.measure import summary
from benchmarks.gpu.parts import Figures, ReportFigures, plain
from benchmarks.page.tables import precision_table, presets_table
from demo.inputs import SPEECH
from export.pocket.evaluate.cases import Case, Voice, cases_of, speech
from export.pocket.evaluate.measuring import measure
from export.pocket.evaluate.subjects import FIRST, Subject, gallery, make_subject
from export.pocket.evaluate.video_sources import GeneratedVideos, Portraits
from export.pocket.lips import RATE
from export.pocket.speech import Samples
from vexpress_rt.config import PRESETS, GenerationConfig
from vexpress_rt.media.recording import open_recording
from vexpress_rt.pipeline.generator import Generator
from vexpress_rt.types import UInt8, Video

BASE = "exact"  # the preset that speed-ups are relative to
MIDDLE = (0.2, 0.8)  # guidance interval, as shares of the steps
RECOMMENDED = "as the bundle recommends"
SCENE = "photo"  # the scene of `cases_of` with speech and motion in one clip
OTHERS = 3  # least number of people whose mouths are compared with each mouth


@dataclass(frozen=True)
class Measured:
    """Measurements of a video.

    Attributes:
        seconds: Duration of the generation.
        denoising: Seconds of denoising.
        psnr: dB, to the reference.
        worst: Least PSNR of a frame, dB.
        lips: Correlation of the mouth's opening with the speech.
        noses: Distances of the nose from its keypoint by frame, as shares of the width.
    """

    seconds: float
    denoising: float
    psnr: float
    worst: float
    lips: float
    noses: Sequence[float]


def configurations() -> dict[str, GenerationConfig]:
    """Return the compared configurations by name: presets, presets with less guidance, and the defaults."""
    presets = {name: GenerationConfig(preset=name) for name in PRESETS}
    saving = {
        "balanced, guided in the middle": GenerationConfig(preset="balanced", guidance_interval=MIDDLE),
        "balanced, every second step": GenerationConfig(preset="balanced", uncond_interval=2),
    }
    return {BASE: presets[BASE], **presets, **saving, RECOMMENDED: GenerationConfig()}


def measure_presets(
    generator: Generator, people: int, seconds: float, reference_steps: int, report: Callable[[Figures], object]
) -> Figures:
    """Measure all configurations.

    Args:
        generator: The generator.
        people: Number of people.
        seconds: Seconds of each clip.
        reference_steps: DDIM steps of the reference.
        report: Called with the figures so far after each person.

    Raises:
        VExpressError: Any error of `Generator.generate`.
    """
    subjects = [make_subject(FIRST + number) for number in range(max(people, OTHERS))]
    reference = GenerationConfig(sampler="ddim", steps=reference_steps, preset=BASE)
    maker, measured = GeneratedVideos(Portraits(generator), reference), dict[str, list[Measured]]()
    of_reference: list[Measured] = []
    figures: Figures = {}
    for number, subject in enumerate(subjects[:people]):
        patches, case = gallery(subjects, number), clip(subject, seconds)
        best = maker.video(case, reference)
        assert best.frames is not None
        of_reference.append(measure_video(case, best, best.frames, patches))
        for name, config in configurations().items():
            video = maker.video(case, config)
            measured.setdefault(name, []).append(measure_video(case, video, best.frames, patches))
        figures = {
            "people": [subject.seed for subject in subjects[: number + 1]],
            "seconds_of_video": seconds,
            "reference_steps": reference_steps,
            "rows": _rows(generator, {f"DDIM, {reference_steps} steps": (reference, of_reference)}, measured),
        }
        report(figures)
    return figures


def measure_precisions(
    bundle: Path | None, threads: int, people: int, seconds: float, rounds: int, report: Callable[[Figures], object]
) -> Figures:
    """Measure the providers on the CPU with each of their precisions: speed, and the difference to provider `cpu`.

    Args:
        bundle: The bundle; None for the one that ships.
        threads: CPU threads.
        people: Number of people.
        seconds: Seconds of each clip.
        rounds: Turns of videos of each person, after one that is not counted.
        report: Called with the figures so far after each person.

    Raises:
        VExpressError: Any error of `Generator.generate`.
    """
    subjects = [make_subject(FIRST + number) for number in range(max(people, OTHERS))]
    config, figures = GenerationConfig(), dict[str, Any]()
    with ExitStack() as stack:
        generators, missing = open_generators(bundle, RUNTIMES, threads, stack)
        samples: dict[str, list[float]] = {name: [] for name in generators}
        measured: dict[str, list[Measured]] = {name: [] for name in generators}
        for number, subject in enumerate(subjects[:people]):
            patches, case = gallery(subjects, number), clip(subject, seconds)
            makers = {name: GeneratedVideos(Portraits(generator), config) for name, generator in generators.items()}
            videos = {name: maker.video(case, config) for name, maker in makers.items()}  # loads the engines
            best = videos[CPU].frames
            assert best is not None
            for name, video in videos.items():
                measured[name].append(measure_video(case, video, best, patches))
            for _ in range(rounds):
                for name, maker in makers.items():
                    time.sleep(QUIET)
                    samples[name].append(maker.video(case, config).timings["total"])
            figures = {
                "people": [found.seed for found in subjects[: number + 1]],
                "seconds_of_video": seconds,
                "rows": [{
                    "model": "shipped", "what": f"{seconds:g} s", "missing": missing,
                    **_precision_figures(generators, samples, measured),
                }],
            }  # fmt: skip
            report(figures)
    return figures


def _precision_figures(
    generators: Mapping[str, Generator], samples: Mapping[str, list[float]], measured: Mapping[str, list[Measured]]
) -> Figures:
    """Return `sides_figures` with the quality of each side: medians over people, and the largest change of lips."""
    figures = sides_figures(samples)
    for name, videos in measured.items():
        pairs = zip(videos, measured[CPU], strict=True)
        figures["sides"][name] |= {
            "precision": described_precision(generators[name]),
            "psnr": float(np.median([video.psnr for video in videos])),
            "psnr_of_the_worst_frame": min(video.worst for video in videos),
            "lips": float(np.median([video.lips for video in videos])),
            "lips_change": max(abs(video.lips - base.lips) for video, base in pairs),
            "nose": float(np.median(np.concatenate([video.noses for video in videos]))),
        }
    return figures


def clip(subject: Subject, seconds: float) -> Case:
    """Return a clip of a person who speaks and moves; without espeak-ng, the speech is the demo's recording."""
    voice: Voice = (lambda seed, length: speech(subject.seed, length)) if shutil.which("espeak-ng") else _recorded
    return next(case for case in cases_of(subject, seconds, voice) if case.scene == SCENE)


def _recorded(seed: int, seconds: float) -> Samples:
    del seed
    return open_recording(SPEECH, RATE).read()[: round(seconds * RATE)]


def measure_video(case: Case, video: Video, reference: UInt8, patches: np.ndarray) -> Measured:
    """Compare a video with its case and with the reference's frames."""
    assert video.frames is not None
    found = measure(case, video.frames, patches)
    return Measured(
        seconds=video.timings["total"],
        denoising=video.timings["denoise"],
        psnr=psnr(video.frames, reference),
        worst=worst_frame(video.frames, reference),
        lips=found.correlation,
        noses=found.errors.tolist(),
    )


def _rows(
    generator: Generator,
    first: Mapping[str, tuple[GenerationConfig, list[Measured]]],
    measured: Mapping[str, list[Measured]],
) -> list[dict[str, Any]]:
    configs = configurations()
    everything = {**first, **{name: (configs[name], videos) for name, videos in measured.items()}}
    return [_row(generator, name, config, videos, measured[BASE]) for name, (config, videos) in everything.items()]


def _row(
    generator: Generator, name: str, config: GenerationConfig, videos: list[Measured], base: list[Measured]
) -> dict[str, Any]:
    """Return the row of one configuration: its settings, and medians over people."""
    settings = generator.bundle.manifest.settings(config)
    return {
        "name": name,
        "sampler": settings.sampler,
        "steps": settings.steps,
        "guidance_interval": list(settings.guidance_interval),
        "uncond_interval": settings.uncond_interval,
        "seconds": summary([video.seconds for video in videos]),
        "speedup": summary([b.seconds / v.seconds for b, v in zip(base, videos, strict=True)]),
        "denoising_speedup": summary([b.denoising / v.denoising for b, v in zip(base, videos, strict=True)]),
        "psnr": float(np.median([video.psnr for video in videos])),
        "psnr_of_the_worst_frame": min(video.worst for video in videos),
        "lips": float(np.median([video.lips for video in videos])),
        "nose": float(np.median(np.concatenate([video.noses for video in videos]))),
        "nose_95": float(np.percentile(np.concatenate([video.noses for video in videos]), 95)),
    }


def part(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Run as a part of `benchmarks.report`.

    Options: {bundle: None for the one that ships; threads; people; seconds; reference_steps}.
    """
    with Generator(options["bundle"], provider="cpu", threads=options["threads"]) as generator:
        return measure_presets(generator, options["people"], options["seconds"], options["reference_steps"], report)


def precision_part(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Run as a part of `benchmarks.report`.

    Options: {bundle: None for the one that ships; threads; people; seconds; rounds}.
    """
    names = ("bundle", "threads", "people", "seconds", "rounds")
    return measure_precisions(*(options[name] for name in names), report)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--bundle", type=Path, help="bundle (the one that ships)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    parser.add_argument("--quick", action="store_true", help="one person, and a short reference")
    parser.add_argument("--people", type=int, help="number of drawn people")
    parser.add_argument("--seconds", type=float, help="seconds of each clip")
    parser.add_argument("--reference-steps", type=int, help="DDIM steps of the reference (200)")
    parser.add_argument("--precisions", action="store_true", help="compare providers and precisions, not presets")
    parser.add_argument("--json", type=Path, help="file for all figures")
    given = parser.parse_args(arguments)
    effort: Effort = QUICK if given.quick else WHOLE
    options = {
        name: getattr(effort, name) if getattr(given, name) is None else getattr(given, name)
        for name in ("people", "seconds", "reference_steps")
    }
    options |= {"bundle": given.bundle, "threads": given.threads, "rounds": effort.video_rounds}
    if given.precisions:
        figures = precision_part(options, lambda so_far: None)
        print("\n".join(precision_table({"precision": {"figures": figures}})))
    else:
        figures = part(options, lambda so_far: None)
        print("\n".join(presets_table(figures)))
    if given.json is not None:
        given.json.write_text(json.dumps(plain(figures), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
