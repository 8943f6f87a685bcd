"""The training loop: seeded, resumable, with a running mean of the weights."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from export.errors import CheckpointError

Report = Callable[[str], object]


@dataclass(frozen=True)
class TrainingSchedule:
    """The schedule of a training.

    Attributes:
        steps: Number of steps.
        parts: Number of parts (micro-batches) of a batch, which threads compute in parallel. The result depends on it,
            but not on the number of threads.
        learning_rate: Largest learning rate.
        warmup: Steps up to that rate; it then falls to a tenth along a cosine.
        ema_decay: Decay of the running mean of the weights (an exponential moving average), which is the result of the
            training.
        report_every: Steps between lines of progress.
        save_every: Steps between states.
    """

    steps: int
    parts: int = 2
    learning_rate: float = 1e-3
    warmup: int = 100
    ema_decay: float = 0.998
    report_every: int = 25
    save_every: int = 100

    def factor(self, step: int) -> float:
        """Return the learning rate of a step over the largest one.

        Args:
            step: Number of the step, from 0.
        """
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.1 + 0.9 * (1 + math.cos(math.pi * min(1.0, step / self.steps))) / 2

    @torch.no_grad()
    def blend(self, means: list[Tensor], values: list[Tensor], count: Tensor | int) -> None:
        """Update running means in place; early steps have a shorter memory, so that the first weights are forgotten.

        Args:
            means: The running means.
            values: The new values.
            count: Number of earlier updates.
        """
        decay = min(self.ema_decay, (1 + int(count)) / (10 + int(count)))
        floating = [i for i, mean in enumerate(means) if mean.is_floating_point()]
        torch._foreach_lerp_([means[i] for i in floating], [values[i] for i in floating], 1 - decay)


def train(
    module: nn.Module,
    loss: Callable[[nn.Module, int], Tensor],
    schedule: TrainingSchedule,
    path: Path,
    report: Report,
    sample: Callable[[nn.Module, int], object] = lambda module, step: None,
    deadline: float = math.inf,
    threads: int = 1,
) -> nn.Module:
    """Train the parameters that require gradients.

    Args:
        module: The module, which is changed.
        loss: Called with the module and the number of a part of a batch, the seed of its random numbers.
        schedule: Training schedule.
        path: The state, which is read at the beginning, so that an interrupted run resumes, and written regularly.
        report: Called with a line of progress.
        sample: Called with the running mean and the step whenever the state is written.
        deadline: Value of `time.time()` after which the training stops.
        threads: Number of threads, each of which computes one part of a batch at a time.

    Returns:
        A copy of the module with the running mean of the weights, in evaluation mode.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, schedule.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    mean = AveragedModel(module, multi_avg_fn=schedule.blend, use_buffers=True)
    step, recent, since = _resume(path, schedule, module, mean, optimizer), 0.0, time.time()
    module.train()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    while step < schedule.steps and time.time() < deadline:
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * schedule.factor(step)
        numbers = range(step * schedule.parts, (step + 1) * schedule.parts)
        found = list(pool.map(partial(_gradients, module, parameters, loss), numbers))
        _descend(optimizer, parameters, [gradients for _, gradients in found])
        mean.update_parameters(module)
        step, recent = step + 1, recent + sum(value for value, _ in found) / schedule.parts
        if step % schedule.report_every == 0:
            seconds = (time.time() - since) / schedule.report_every
            report(f"{path.stem}: step {step}, loss {recent / schedule.report_every:.4f}, {seconds:.2f} s a step")
            recent, since = 0.0, time.time()
        if step % schedule.save_every == 0 or step == schedule.steps or time.time() >= deadline:
            _save(path, step, module, mean, optimizer)
            sample(mean.module.eval(), step)
            since = time.time()
    pool.shutdown()
    return mean.module.eval()


def _descend(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], parts: Sequence[tuple[Tensor, ...]]
) -> None:
    """Take a step along the mean of the gradients of all parts, clipped to a norm of 1."""
    for i, parameter in enumerate(parameters):
        parameter.grad = torch.stack([gradients[i] for gradients in parts]).mean(dim=0)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def _gradients(
    module: nn.Module, parameters: Sequence[Tensor], loss: Callable[[nn.Module, int], Tensor], number: int
) -> tuple[float, tuple[Tensor, ...]]:
    """Return loss and gradients of a part of a batch. The module is not changed, so threads can share it."""
    found = loss(module, number)
    gradients = torch.autograd.grad(found, parameters, materialize_grads=True)
    return found.item(), gradients


def mean_state(module: nn.Module) -> dict[str, Any]:
    """Return the part of a finished run's state from which its running mean is read.

    Args:
        module: The module, with the weights of the running mean.
    """
    return {"mean": {f"module.{name}": value for name, value in module.state_dict().items()}}


def _resume(
    path: Path, schedule: TrainingSchedule, module: nn.Module, mean: AveragedModel, optimizer: torch.optim.Optimizer
) -> int:
    """Load the state in `path`, if there is one, and return the number of completed steps."""
    if not path.exists():
        return 0
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if "module" not in state:  # of `mean_state`
            mean.load_state_dict(state["mean"], strict=False)  # without the count, which only training uses
            return schedule.steps
        module.load_state_dict(state["module"])
        mean.load_state_dict(state["mean"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])
    except (OSError, MemoryError):
        raise
    except Exception as error:  # damaged files, and states of other networks, can raise any exception
        raise CheckpointError(
            f"{path} cannot be continued ({type(error).__name__}: {' '.join(str(error).split())[:200]}); expected a "
            "state that this version wrote: remove it, or choose another --output"
        ) from error


def _save(path: Path, step: int, module: nn.Module, mean: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"module": module.state_dict(), "mean": mean.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({"step": step, **state}, part)
    os.replace(part, path)
