"""What is to be done, in which order, and what needs what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.bundles import folder_name
from benchmarks.gpu.engines import PROBES
from benchmarks.gpu.parts import Part
from vexpress_rt.bundle.target import TARGETS

KINDS = ("kernels", "engines", "videos", "timings", "torch")  # of parts that can be asked for
PRECISION = "fp16"
REFERENCE = "build/cpu"


@dataclass(frozen=True)
class Size:
    """Preset of `export.checkpoint.presets`; pixels of the picture; frames of a window; steps of the timed video."""

    preset: str
    height: int
    width: int
    frames: int
    steps: int

    def shape(self) -> dict[str, int]:
        """The sizes that a bundle is built for."""
        return {"height": self.height, "width": self.width, "frames": self.frames}


# Results are compared at the tiny size, since the CPU takes minutes for a step of the full one; times are taken at the
# size that is asked for.
SIZES = {"tiny": Size("tiny", 64, 64, 8, 4), "full": Size("full", 512, 512, 24, 25)}
TINY = SIZES["tiny"]


@dataclass(frozen=True)
class Runtime:
    """Something that runs engines on a GPU.

    provider: of `Generator`.  target: that its bundles are built for.  folder: where its packages are, beside those of
    this environment.  instead: runtimes that make it superfluous where they accept the GPU.
    """

    name: str
    provider: str
    target: str
    folder: Path | None = None
    instead: tuple[str, ...] = ()


def runtimes(rtx_folders: Sequence[Path]) -> list[Runtime]:
    """All that can be tried. rtx_folders: each with another TensorRT for RTX, to be tried where those before refuse."""
    found = [Runtime("onnxruntime-cuda", "cuda", "onnxruntime"), Runtime("tensorrt", "tensorrt", "tensorrt")]
    tried: tuple[str, ...] = ()
    for folder in (None, *rtx_folders):
        name = "tensorrt-rtx" if folder is None else f"tensorrt-rtx-{folder_name(folder.resolve().name)}"
        found.append(Runtime(name, "tensorrt", "tensorrt-rtx", folder, tried))
        tried += (name,)
    return found


def plan(size: Size, runtimes: Sequence[Runtime], work: Path) -> list[Part]:
    """Every part, in the order in which they begin where nothing hinders them. work: folder for weights and bundles."""
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
    """The parts whose names are, or begin with, one of `wanted`, and all that those wait for."""
    heads = tuple(wanted)
    by_name = {part.name: part for part in parts}
    chosen: set[str] = set()

    def add(part: Part) -> None:
        if part.name not in chosen:
            chosen.add(part.name)
            for name in part.awaits:
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
        gpu=not TARGETS[runtime.target].builds_without_gpu,  # it builds by trying kernels
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
