"""Options and fixtures of the suites: models, and the measurement of two alternating calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cpu.effort import QUICK, WHOLE, Effort
from benchmarks.cpu.pairs import QUIET, pair_figures, sides_figures
from benchmarks.cpu.runtimes import CPU
from benchmarks.page.parts import COLLECTOR

if TYPE_CHECKING:
    from benchmarks.cpu.sides import Sides


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose what is measured."""
    group = parser.getgroup("benchmarks of vexpress_rt")
    group.addoption("--quick", action="store_true", help="small sizes and few rounds, to see that all of it runs")
    group.addoption("--lengths", type=_numbers, help="lengths of whole videos in seconds, such as 2,10,60")
    group.addoption("--models", type=lambda text: tuple(text.split(",")), help="models to measure: pocket,half,full")
    group.addoption("--threads", type=int, default=2, help="CPU threads of each side (2)")
    group.addoption("--work", type=Path, help="folder of synthetic weights and bundles (build/bench)")


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(","))


def effort_of(config: pytest.Config) -> Effort:
    """Return the extent of the measurements that the options select."""
    effort = QUICK if config.getoption("--quick") else WHOLE
    chosen = {name: value for name in ("lengths", "models") if (value := config.getoption(f"--{name}")) is not None}
    return replace(effort, **chosen)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize tests of whole videos with the selected lengths."""
    if "length" in metafunc.fixturenames:
        lengths = effort_of(metafunc.config).lengths
        metafunc.parametrize("length", lengths, ids=[f"{length:g}s" for length in lengths])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of models that `--models` leaves out."""
    models = effort_of(config).models
    left_out = [item for item in items if _model(item) not in (None, *models)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _model(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get("model_name")


@pytest.fixture(scope="session")
def effort(request: pytest.FixtureRequest) -> Effort:
    """The extent of the measurements."""
    return effort_of(request.config)


@pytest.fixture(scope="session")
def threads(request: pytest.FixtureRequest) -> int:
    """CPU threads of each side."""
    count: int = request.config.getoption("--threads")
    return count


@pytest.fixture(scope="session")
def sides(model_name: str, threads: int, request: pytest.FixtureRequest) -> Iterator[Sides]:
    """A model on all sides; sets PyTorch's threads and lets malloc keep freed memory."""
    import torch

    from benchmarks.cpu.allocator import keep_memory
    from benchmarks.cpu.models import MODELS, WORK
    from benchmarks.cpu.sides import Sides

    work = request.config.getoption("--work") or WORK
    model = MODELS[model_name]
    torch.set_num_threads(threads)
    keep_memory()
    model.prepare(work)
    with Sides(model.weights(work), model.bundle(work), threads) as made:
        yield made


@pytest.fixture
def measure_sides(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that measures alternating calls of all sides in this process.

    The benchmark's figures are those of the provider `cpu`; `extra_info` has all of them.

    Args of the function:
        calls: Call of each side, by its name in `benchmarks.cpu.runtimes`; `cpu` is one of them.
        rounds: Number of turns.
        warmup: Uncounted turns before.
        details: Called after the measurement; returns further figures by side.
        **facts: More figures of the row.
    """

    def measure(
        calls: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1,
        details: Callable[[], Mapping[str, Mapping[str, Any]]] = dict, **facts: Any,
    ) -> None:  # fmt: skip
        samples: dict[str, list[float]] = {name: [] for name in calls}

        def others() -> None:
            for name, call in calls.items():
                time.sleep(QUIET)
                if name != CPU:
                    started = time.perf_counter()
                    call()
                    samples[name].append(time.perf_counter() - started)

        benchmark.pedantic(calls[CPU], setup=others, rounds=rounds, warmup_rounds=warmup)
        samples[CPU] = [float(seconds) for seconds in benchmark.stats.stats.data]
        figures = sides_figures({name: seconds[-rounds:] for name, seconds in samples.items()})
        for name, further in details().items():
            figures["sides"][name].update(further)
        benchmark.extra_info.update(figures)
        _collect(request, {**figures, "rounds": rounds, **facts})

    return measure


@pytest.fixture
def measure_pair(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that measures two alternating calls in this process.

    The benchmark's figures are those of our calls; `extra_info` has those of the other calls, and the ratio.

    Args of the function:
        ours: Our call.
        theirs: The other call.
        rounds: Number of pairs.
        warmup: Uncounted pairs before.
        before: Uncounted calls right before each counted one, so that a short call finds its threads awake.
        **facts: More entries of `extra_info`; functions are called after the measurement.
    """

    def measure(
        ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int, warmup: int = 1, before: int = 0, **facts: Any
    ) -> None:
        samples: list[float] = []

        def prepare(call: Callable[[], Any]) -> None:
            time.sleep(QUIET)
            for _ in range(before):
                call()

        def other() -> None:
            prepare(theirs)
            started = time.perf_counter()
            theirs()
            samples.append(time.perf_counter() - started)
            prepare(ours)

        benchmark.pedantic(ours, setup=other, rounds=rounds, warmup_rounds=warmup)
        own = [float(seconds) for seconds in benchmark.stats.stats.data]
        figures = pair_figures(own, samples[warmup:])
        found = {name: fact() if callable(fact) else fact for name, fact in facts.items()}
        benchmark.extra_info.update({**{k: figures[k] for k in ("theirs", "ratio")}, **found})
        _collect(request, {**figures, **found})

    return measure


def _collect(request: pytest.FixtureRequest, figures: dict[str, Any]) -> None:
    """Report the figures of a test to the part of the report that runs it, if one does."""
    collector = request.config.pluginmanager.get_plugin(COLLECTOR)
    if collector is not None:
        collector.add(request.node.name, figures)
