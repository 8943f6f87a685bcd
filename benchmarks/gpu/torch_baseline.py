"""The baseline: the exporter's PyTorch modules on the same GPU, in eager mode and compiled by `torch.compile`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.parts import Figures, NotAvailableError, ReportFigures
from benchmarks.gpu.timings import judge, memory_in_use, time_engines, time_videos
from vexpress_rt.bundle.engine_spec import ENGINE_NAMES, VideoShape

COMPILED = ("denoiser", "vae_decoder")  # the engines that run in every step, and for every frame


def measure_modules(options: Mapping[str, Any], report: ReportFigures) -> Figures:
    """Time every engine, a window-step and a whole video. The first run of a compiled engine includes its compilation.

    Args:
        options: {weights, work: folders; precision; height, width, frames; steps: of the whole video; name: of its
            files; compile: whether to compile COMPILED}.
        report: Called with the figures so far.

    Raises:
        NotAvailableError: PyTorch finds no GPU.
        CheckFailedError: See `judge`.
        Exception: PyTorch cannot compile a module.
    """
    import torch

    if not torch.cuda.is_available():
        raise NotAvailableError(f"PyTorch {torch.__version__} finds no GPU: install a build with CUDA")
    from benchmarks.gpu.torch_engines import TorchEngines
    from benchmarks.gpu.torch_video import TorchVideo
    from export.checkpoint.reader import Checkpoint

    torch.backends.cudnn.benchmark = True  # let cuDNN try its kernels, as the engines' builders do
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # as in the runtime
    size = (options["height"], options["width"], options["frames"])
    engines = TorchEngines(Checkpoint(options["weights"]), VideoShape(*size), options["precision"], "cuda")
    for name in ENGINE_NAMES:  # before the default device changes: weights are read on the CPU
        engines.get(name)
    torch.set_default_device("cuda")  # for tensors that modules create when they run
    for name in COMPILED if options["compile"] else ():
        engines.compile(name)
    compiled = list(COMPILED) if options["compile"] else []
    figures: Figures = {"library": f"PyTorch {torch.__version__}", "compiled": compiled, "engines": {}}
    for name, result in time_engines(engines.get, lambda outputs: torch.cuda.synchronize()):
        figures["engines"][name] = result
        report(figures)
    figures |= memory_in_use()
    time_videos(TorchVideo(engines, torch.cuda.synchronize).make, size, options, figures, report)
    judge(figures, options["precision"])
    return figures
