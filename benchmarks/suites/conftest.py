"""Options and fixtures of the suites: models, and two calls measured by turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cpu.effort import QUICK, WHOLE, Effort
from benchmarks.cpu.pairs import QUIET, pair_figures
from benchmarks.page.parts import COLLECTOR

if TYPE_CHECKING:
    from benchmarks.cpu.sides import Sides


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmarks of vexpress_rt")
    group.addoption("--quick", action="store_true", help="small sizes and few rounds, to see that all of it runs")
    group.addoption("--lengths", type=_numbers, help="of whole videos, seconds: 2,10,60")
    group.addoption("--models", type=lambda text: tuple(text.split(",")), help="some of pocket,half,full")
    group.addoption("--threads", type=int, default=2, help="of the CPU, for each side (2)")
    group.addoption("--work", type=Path, help="folder of synthetic weights and bundles (build/bench)")


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(","))


def effort_of(config: pytest.Config) -> Effort:
    """What was asked for."""
    effort = QUICK if config.getoption("--quick") else WHOLE
    chosen = {name: value for name in ("lengths", "models") if (value := config.getoption(f"--{name}")) is not None}
    return replace(effort, **chosen)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Whole videos of every length that is asked for."""
    if "length" in metafunc.fixturenames:
        lengths = effort_of(metafunc.config).lengths
        metafunc.parametrize("length", lengths, ids=[f"{length:g}s" for length in lengths])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Only of the models that are asked for."""
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
    """How much is measured."""
    return effort_of(request.config)


@pytest.fixture(scope="session")
def threads(request: pytest.FixtureRequest) -> int:
    """Of the CPU, for each side."""
    count: int = request.config.getoption("--threads")
    return count


@pytest.fixture(scope="session")
def sides(model_name: str, threads: int, request: pytest.FixtureRequest) -> Iterator[Sides]:
    """A model's engines, and its modules in PyTorch, which has that many threads and keeps its memory from here on."""
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
def beside(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Two calls by turns, in one process; the benchmark's figures are of ours, `extra_info` has theirs and the ratio.

    facts: go into `extra_info`; functions are called when all is measured.  warmup: rounds before, which do not count.
    before: calls of the same right before each that counts, so that short ones do not wait for threads that sleep.
    """

    def measure(
        ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int, warmup: int = 1, before: int = 0, **facts: Any
    ) -> None:
        samples: list[float] = []

        def settle(call: Callable[[], Any]) -> None:
            time.sleep(QUIET)
            for _ in range(before):
                call()

        def other() -> None:
            settle(theirs)
            started = time.perf_counter()
            theirs()
            samples.append(time.perf_counter() - started)
            settle(ours)

        benchmark.pedantic(ours, setup=other, rounds=rounds, warmup_rounds=warmup)
        own = [float(seconds) for seconds in benchmark.stats.stats.data]
        figures = pair_figures(own, samples[warmup:])
        found = {name: fact() if callable(fact) else fact for name, fact in facts.items()}
        benchmark.extra_info.update({**{k: figures[k] for k in ("theirs", "ratio")}, **found})
        collector = request.config.pluginmanager.get_plugin(COLLECTOR)
        if collector is not None:
            collector.add(request.node.name, {**figures, **found})

    return measure
