"""The parts of the check, their order and their dependencies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.bundles import folder_name
from benchmarks.gpu.engines import PROBES
from benchmarks.gpu.parts import Part
from vexpress_rt.bundle.target import TARGETS

KINDS = ("kernels", "engines", "videos", "timings", "torch")  # kinds of parts, for --parts
PRECISION = "fp16"
REFERENCE = "build/cpu"


@dataclass(frozen=True)
class Size:
    """A size of the networks and videos.

    Attributes:
        preset: Name in `export.checkpoint.presets`.
        height: Pixels of the video.
        width: Pixels of the video.
        frames: Frames of a window.
        steps: Denoising steps of the timed video.
    """

    preset: str
    height: int
    width: int
    frames: int
    steps: int

    def shape(self) -> dict[str, int]:
        """Return the options of a build."""
        return {"height": self.height, "width": self.width, "frames": self.frames}


# Results are compared at the tiny size, because the CPU takes minutes for a step of the full one; times are measured at
# the size of --size.
SIZES = {"tiny": Size("tiny", 64, 64, 8, 4), "full": Size("full", 512, 512, 24, 25)}
TINY = SIZES["tiny"]


@dataclass(frozen=True)
class Runtime:
    """A library that runs engines on a GPU.

    Attributes:
        name: Name in the names of parts.
        provider: Provider of `Generator`.
        target: Target of its bundles.
        folder: Folder of its packages; None if this environment has them.
        instead: Names of runtimes that this one replaces if they refuse the GPU.
    """

    name: str
    provider: str
    target: str
    folder: Path | None = None
    instead: tuple[str, ...] = ()


def runtimes(rtx_folders: Sequence[Path]) -> list[Runtime]:
    """Return all runtimes to try.

    Args:
        rtx_folders: Folders with other versions of TensorRT for RTX; each is tried if the earlier ones refuse the GPU.
    """
    found = [Runtime("onnxruntime-cuda", "cuda", "onnxruntime"), Runtime("tensorrt", "tensorrt", "tensorrt")]
    tried: tuple[str, ...] = ()
    for folder in (None, *rtx_folders):
        name = "tensorrt-rtx" if folder is None else f"tensorrt-rtx-{folder_name(folder.resolve().name)}"
        found.append(Runtime(name, "tensorrt", "tensorrt-rtx", folder, tried))
        tried += (name,)
    return found


def plan(size: Size, runtimes: Sequence[Runtime], work: Path) -> list[Part]:
    """Return every part in order.

    Args:
        size: Size of the timed networks.
        runtimes: Runtimes to check.
        work: Folder for weights and bundles.
    """
    sizes = list(dict.fromkeys((TINY, size)))
    parts = [Part("kernels", "benchmarks.gpu.kernels:check", alone=True, gpu=True)]
    parts += [_weights(each, work) for each in sizes]
    parts += [_accepts(runtime, work) for runtime in runtimes]
    parts.append(_reference(work))
    parts += [_build(runtime, each, work) for each in sizes for runtime in runtimes]
    parts += [part for runtime in runtimes for part in _checks(runtime, work)]
    parts.append(_torch("torch/eager", size, work, compiled=False))
    parts += [_timings(runtime, size, work) for runtime in runtimes]
    parts.append(_torch("torch/compiled", size, work, compiled=True))
    return parts


def select(parts: Sequence[Part], wanted: Iterable[str]) -> list[Part]:
    """Return the parts whose names are, or begin with, one of `wanted`, and all their dependencies."""
    heads = tuple(wanted)
    by_name = {part.name: part for part in parts}
    chosen: set[str] = set()

    def add(part: Part) -> None:
        if part.name not in chosen:
            chosen.add(part.name)
            for name in part.dependencies:
                add(by_name[name])

    for part in parts:
        if any(part.name == head or part.name.startswith(f"{head}/") for head in heads):
            add(part)
    return [part for part in parts if part.name in chosen]


def _weights(size: Size, work: Path) -> Part:
    options = {"preset": size.preset, "weights": str(_weights_folder(size, work))}
    return Part(f"weights/{size.preset}", "benchmarks.gpu.bundles:make_weights", options)


def _accepts(runtime: Runtime, work: Path) -> Part:
    options = _build_options(runtime, PRECISION, TINY, work / f"bundle-{runtime.name}-some", work)
    return Part(
        f"accepts/{runtime.name}",
        "benchmarks.gpu.engines:accept",
        {**options, "engines": PROBES},
        gpu=True,
        needs=(f"weights/{TINY.preset}",),
        unless=tuple(f"accepts/{name}" for name in runtime.instead),
        folder=_folder(runtime),
    )


def _reference(work: Path) -> Part:
    options = _build_options(Runtime("cpu", "cpu", "onnxruntime"), "fp32", TINY, work / "bundle-cpu", work)
    return Part(REFERENCE, "benchmarks.gpu.bundles:build", options, needs=(f"weights/{TINY.preset}",))


def _build(runtime: Runtime, size: Size, work: Path) -> Part:
    return Part(
        _build_name(runtime, size),
        "benchmarks.gpu.bundles:build",
        _build_options(runtime, PRECISION, size, _bundle_folder(runtime, size, work), work),
        gpu=not TARGETS[runtime.target].builds_without_gpu,
        needs=(f"weights/{size.preset}", f"accepts/{runtime.name}"),
        folder=_folder(runtime),
    )


def _checks(runtime: Runtime, work: Path) -> Iterator[Part]:
    options = {
        "bundle": str(_bundle_folder(runtime, TINY, work)),
        "reference": str(work / "bundle-cpu"),
        "provider": runtime.provider,
    }
    for kind in ("engines", "videos"):
        yield Part(
            f"{kind}/{runtime.name}",
            f"benchmarks.gpu.{kind}:check",
            options,
            gpu=True,
            needs=(_build_name(runtime, TINY), REFERENCE),
            folder=_folder(runtime),
        )


def _timings(runtime: Runtime, size: Size, work: Path) -> Part:
    name = f"timings/{runtime.name}"
    return Part(
        name,
        "benchmarks.gpu.timings:measure_bundle",
        {
            "bundle": str(_bundle_folder(runtime, size, work)),
            "provider": runtime.provider,
            "target": runtime.target,
            **_common(name, size, work),
        },
        alone=True,
        gpu=True,
        needs=(_build_name(runtime, size),),
        folder=_folder(runtime),
    )


def _torch(name: str, size: Size, work: Path, *, compiled: bool) -> Part:
    return Part(
        name,
        "benchmarks.gpu.torch_baseline:measure_modules",
        {
            "weights": str(_weights_folder(size, work)),
            "precision": PRECISION,
            "compile": compiled,
            **size.shape(),
            **_common(name, size, work),
        },
        alone=True,
        gpu=True,
        needs=(f"weights/{size.preset}",),
    )


def _common(name: str, size: Size, work: Path) -> dict[str, Any]:
    return {"work": str(work), "name": folder_name(name), "steps": size.steps}


def _build_options(runtime: Runtime, precision: str, size: Size, bundle: Path, work: Path) -> dict[str, Any]:
    return {
        "provider": runtime.provider,
        "target": runtime.target,
        "precision": precision,
        "weights": str(_weights_folder(size, work)),
        "bundle": str(bundle),
        **size.shape(),
    }


def _build_name(runtime: Runtime, size: Size) -> str:
    return f"build/{runtime.name}/{size.preset}"


def _bundle_folder(runtime: Runtime, size: Size, work: Path) -> Path:
    return work / f"bundle-{runtime.name}-{size.preset}"


def _weights_folder(size: Size, work: Path) -> Path:
    return work / f"weights-{size.preset}"


def _folder(runtime: Runtime) -> str | None:
    return None if runtime.folder is None else str(runtime.folder.resolve())
