"""Engines that are loaded side by side: how many at once, in which order, and how errors and closing end it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.doubles.fake_providers import FakeProviders
from tests.doubles.fakes import FakeBackend, FakeEngine
from tests.support.scenes import FAST, frames_of, photo, speech
from vexpress_rt.backends import concurrent_loading, loaded_engines
from vexpress_rt.backends.concurrent_loading import ConcurrentLoading
from vexpress_rt.backends.loaded_engines import Engines
from vexpress_rt.backends.registry import choose
from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.config import GenerationConfig
from vexpress_rt.errors import BackendError, BundleNotFoundError, CancelledError
from vexpress_rt.pipeline.generator import Generator
from vexpress_rt.utils.cancellation import cancellable, check_cancelled
from vexpress_rt.utils.cpus import ThreadLimit

TIMEOUT = 20.0  # seconds after which a test fails instead of waiting forever
NEEDS = {"denoiser": 50, "decoder": 30, "guider": 10, "encoder": 5}


class Loads:
    """A loading function that can be held up, and records its calls.

    Attributes:
        begun: Names in the order in which loads began.
        most: The largest number of loads at once.
        threads: Identifiers of the threads that loaded.
        gates: Events that the loads of these engines wait for.
        broken: Errors to raise.
    """

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.most = 0
        self.threads: set[int] = set()
        self.gates: dict[str, threading.Event] = {}
        self.broken: dict[str, BaseException] = {}
        self._running = 0
        self._lock = threading.Lock()

    def __call__(self, name: str) -> None:
        with self._lock:
            self.begun.append(name)
            self.threads.add(threading.get_ident())
            self._running += 1
            self.most = max(self.most, self._running)
        try:
            if name in self.gates:
                assert self.gates[name].wait(TIMEOUT)
            else:
                time.sleep(0.005)
            if name in self.broken:
                raise self.broken[name]
        finally:
            with self._lock:
                self._running -= 1

    def wait_until_begun(self, *names: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not set(names) <= set(self.begun):
            assert time.monotonic() < deadline, self.begun
            time.sleep(0.001)


@pytest.fixture
def loads() -> Loads:
    return Loads()


def no_limit() -> None:
    return None


def test_as_many_engines_as_threads_are_loaded_at_once_in_the_given_order(loads: Loads) -> None:
    gate = loads.gates["denoiser"] = threading.Event()
    with ConcurrentLoading(loads, NEEDS, 2, no_limit) as loading:
        loading.wait("decoder", "guider", "encoder")  # beside the first one, which is held up
        gate.set()
        loading.wait()
    assert set(loads.begun[:2]) == {"denoiser", "decoder"}
    assert loads.begun[2:] == ["guider", "encoder"]
    assert loads.most == 2
    assert threading.get_ident() not in loads.threads


@pytest.mark.parametrize("threads", [0, 1])
def test_one_thread_is_the_callers_and_loads_when_it_waits(loads: Loads, threads: int) -> None:
    with ConcurrentLoading(loads, NEEDS, threads, no_limit) as loading:
        assert loads.begun == []
        loading.wait("guider")
        assert loads.begun == ["guider"]
    assert loads.threads == {threading.get_ident()}
    assert loads.begun == ["guider"]


@pytest.mark.parametrize(("free", "most"), [(79, 1), (80, 2), (None, 4)])
def test_engines_are_loaded_at_once_as_far_as_they_fit_into_the_free_memory(
    loads: Loads, free: int | None, most: int
) -> None:
    for name in NEEDS:
        loads.gates[name] = threading.Event()
    with ConcurrentLoading(loads, NEEDS, 4, lambda: free) as loading:
        loads.wait_until_begun(*list(NEEDS)[:most])
        time.sleep(0.05)  # others do not begin meanwhile
        assert sorted(loads.begun) == sorted(list(NEEDS)[:most])
        for name in NEEDS:
            loads.gates[name].set()
            loading.wait(name)
    assert sorted(loads.begun) == sorted(NEEDS)


def test_an_engine_that_is_larger_than_the_free_memory_is_loaded_alone(loads: Loads) -> None:
    with ConcurrentLoading(loads, NEEDS, 4, lambda: 0) as loading:
        loading.wait()
    assert loads.begun == list(NEEDS)
    assert loads.most == 1


def test_engines_that_are_loaded_already_wait_for_no_memory(loads: Loads) -> None:
    gate = loads.gates["denoiser"] = threading.Event()
    with ConcurrentLoading(loads, {**NEEDS, "decoder": 0, "guider": 0, "encoder": 0}, 2, lambda: 0) as loading:
        loading.wait("decoder", "guider", "encoder")
        gate.set()


def test_an_error_of_one_engine_leaves_the_others_loaded(loads: Loads) -> None:
    loads.broken["decoder"] = BackendError("decoder: memory ran out")
    with ConcurrentLoading(loads, NEEDS, 2, no_limit) as loading:
        loading.wait("denoiser", "guider", "encoder")
        with pytest.raises(BackendError, match="decoder: memory ran out"):
            loading.wait()
    assert sorted(loads.begun) == sorted(NEEDS)


def test_an_error_is_raised_before_later_loads_end(loads: Loads) -> None:
    loads.broken["denoiser"] = BackendError("denoiser")
    gate = loads.gates["decoder"] = threading.Event()
    with ConcurrentLoading(loads, NEEDS, 2, no_limit) as loading:
        with pytest.raises(BackendError, match="denoiser"):
            loading.wait()
        gate.set()


def test_loads_begin_in_another_order_than_errors_are_raised_in(loads: Loads) -> None:
    order = ("encoder", "guider", "decoder", "denoiser")
    for name in ("encoder", "denoiser"):
        loads.broken[name] = BackendError(name)
    gate = loads.gates["encoder"] = loads.gates["guider"] = threading.Event()
    with ConcurrentLoading(loads, NEEDS, 2, no_limit, order) as loading:
        loads.wait_until_begun("encoder", "guider")
        assert len(loads.begun) == 2
        gate.set()
        with pytest.raises(BackendError, match="denoiser"):
            loading.wait()


@pytest.mark.parametrize(("names", "first"), [((), "denoiser"), (("encoder", "denoiser"), "encoder")])
def test_of_several_errors_the_first_in_order_is_raised_whichever_comes_first(
    loads: Loads, names: tuple[str, ...], first: str
) -> None:
    for name in ("encoder", "denoiser"):
        loads.broken[name] = BackendError(name)
    gate = loads.gates[first] = threading.Event()
    timer = threading.Timer(0.05, gate.set)  # the other error is recorded long before
    with ConcurrentLoading(loads, NEEDS, 2, no_limit) as loading:
        loading.wait("decoder", "guider")
        timer.start()
        with pytest.raises(BackendError, match=first):
            loading.wait(*names)
    timer.join()


def test_an_exception_in_the_block_drops_the_loads_that_have_not_begun(loads: Loads) -> None:
    for name in ("denoiser", "decoder"):
        loads.gates[name] = threading.Event()
    ended = []

    def fail() -> None:
        with ConcurrentLoading(loads, NEEDS, 2, no_limit):
            loads.wait_until_begun("denoiser", "decoder")
            threading.Timer(0.05, lambda: [ended.append(True), *(gate.set() for gate in loads.gates.values())]).start()
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    assert ended  # the loads that had begun were waited for
    assert sorted(loads.begun) == ["decoder", "denoiser"]


def test_leaving_the_block_cancels_loads_that_wait_for_another_process() -> None:
    waiting, ends = threading.Event(), []

    def load(name: str) -> None:
        waiting.set()
        try:
            while True:
                check_cancelled()
                time.sleep(0.001)
        except CancelledError as error:
            ends.append(str(error))
            raise

    with ConcurrentLoading(load, {"denoiser": 1, "vae_decoder": 1}, 2, lambda: None):
        assert waiting.wait(10)
    assert ends
    assert all("cancelled" in end for end in ends)


def test_a_cancelled_wait_ends_before_the_loads_that_have_not_begun(loads: Loads) -> None:
    loads.gates["denoiser"] = loads.gates["decoder"] = threading.Event()
    cancelled = threading.Event()

    def wait() -> None:
        with ConcurrentLoading(loads, NEEDS, 2, no_limit) as loading, cancellable(cancelled.is_set):
            loads.wait_until_begun("denoiser", "decoder")
            cancelled.set()
            try:
                loading.wait()
            finally:
                threading.Timer(0.05, loads.gates["denoiser"].set).start()  # once the block has been left

    with pytest.raises(CancelledError):
        wait()
    assert sorted(loads.begun) == ["decoder", "denoiser"]


@pytest.mark.parametrize("startable", [0, 1])
def test_threads_that_the_system_refuses_are_done_without(
    loads: Loads, monkeypatch: pytest.MonkeyPatch, startable: int
) -> None:
    left = [startable]

    def start(thread: threading.Thread) -> None:
        if not left[0]:
            raise BackendError("the system starts no more threads")
        left[0] -= 1
        thread.start()

    monkeypatch.setattr(concurrent_loading, "start_thread", start)
    with ConcurrentLoading(loads, NEEDS, 3, no_limit) as loading:
        loading.wait()
    assert loads.begun == list(NEEDS)
    assert loads.most == 1


# Engines of a bundle


@pytest.fixture
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded_engines, "limit_threads", lambda threads: ThreadLimit(2, threads, 2))


class Gate(threading.Event):
    """An event that a load waits for.

    Attributes:
        reached: Set when the load begins to wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()


@pytest.fixture
def held(backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Gate]]:
    """Yield a function that holds up the loads of an engine until the gate that it returns is set."""
    gates: dict[str, Gate] = {}
    load = backend.load

    def wait_and_load(path: Path, *args: object, **kwargs: object) -> FakeEngine:
        if path.stem in gates:
            gates[path.stem].reached.set()
            assert gates[path.stem].wait(TIMEOUT)
        return load(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "load", wait_and_load)
    yield lambda name: gates.setdefault(name, Gate())
    for gate in gates.values():
        gate.set()


Held = Callable[[str], Gate]


@pytest.mark.usefixtures("two_cpus")
def test_an_engine_is_used_while_another_is_loaded(fake_bundle: Path, backend: FakeBackend, held: Held) -> None:
    bundle = Bundle.open(fake_bundle)
    engines, gate = Engines(bundle, choose("cpu", bundle), None), held("denoiser")
    with engines.loading(("denoiser", "pose_guider")) as loading:
        loading.wait("pose_guider")
        assert engines.get("pose_guider").spec is backend.engines["pose_guider"].spec
        gate.set()
        loading.wait()
    engines.close()


@pytest.mark.usefixtures("two_cpus")
def test_an_engine_that_two_threads_need_is_loaded_once(fake_bundle: Path, backend: FakeBackend, held: Held) -> None:
    bundle = Bundle.open(fake_bundle)
    engines, gate = Engines(bundle, choose("cpu", bundle), None), held("denoiser")
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(engines.get, "denoiser") for _ in range(3)]
        gate.set()
        assert len({id(one.result(TIMEOUT)) for one in found}) == 1
    assert backend.loads == ["denoiser"]
    engines.close()


@pytest.mark.usefixtures("two_cpus")
def test_a_photo_is_encoded_while_other_engines_are_loaded(fake_bundle: Path, backend: FakeBackend, held: Held) -> None:
    gate = held("denoiser")

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "portrait":
            assert "denoiser" not in backend.engines
            gate.set()

    with Generator(fake_bundle) as generator:
        generator.generate(photo(), speech(0.1), config=FAST, progress=progress)
    assert gate.is_set()


@pytest.mark.usefixtures("two_cpus")
def test_closing_waits_for_loads_in_progress_and_frees_their_engines(
    fake_bundle: Path, backend: FakeBackend, held: Held
) -> None:
    gate, generator = held("denoiser"), Generator(fake_bundle)
    with ThreadPoolExecutor(2) as pool:
        loading = pool.submit(generator.load)
        deadline = time.monotonic() + TIMEOUT
        while len(backend.engines) < 7:  # all but the denoiser
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert gate.reached.wait(TIMEOUT)
        closing = pool.submit(generator.close)
        time.sleep(0.05)
        assert not closing.done()
        gate.set()
        closing.result(TIMEOUT)
        loading.result(TIMEOUT)
    assert all(engine.closed for engine in backend.engines.values())
    with pytest.raises(BackendError, match="this Generator was closed"):
        generator.load()


@pytest.mark.usefixtures("two_cpus")
def test_loads_that_have_not_begun_when_the_generator_is_closed_fail(
    fake_bundle: Path, backend: FakeBackend, held: Held
) -> None:
    gates, generator = [held("denoiser"), held("reference_net")], Generator(fake_bundle)
    with ThreadPoolExecutor(2) as pool:
        loading = pool.submit(generator.prepare, photo())
        deadline = time.monotonic() + TIMEOUT
        while "vae_encoder" not in backend.engines:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        closing = pool.submit(generator.close)
        while not generator._engines._closed:
            time.sleep(0.001)
        for gate in gates:
            gate.set()
        closing.result(TIMEOUT)
        with pytest.raises(BackendError, match="closed"):
            loading.result(TIMEOUT)
    assert all(engine.closed for engine in backend.engines.values())


def test_a_provider_without_a_memory_factor_loads_one_engine_after_another(
    machine: FakeProviders, compiled_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    load = machine.load_with

    def record(*args: object, **kwargs: object) -> FakeEngine:
        threads.add(threading.get_ident())
        return load(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(machine, "load_with", record)
    machine.install(monkeypatch)
    with Generator(compiled_bundle, provider="tensorrt") as generator:
        generator.load()
        generator.generate(photo(), speech(0.1), config=FAST)
    assert threads == {threading.get_ident()}
    assert len(machine.executors) == 1


# Generator.load


def test_after_loading_nothing_more_is_loaded(fake_bundle: Path, backend: FakeBackend) -> None:
    with Generator(fake_bundle) as generator:
        generator.load(FAST)
        loaded = sorted(backend.loads)
        generator.load(FAST)
        with generator.stream(photo(), speech(0.1), config=FAST) as stream:
            next(stream)
        with generator.live(photo(), config=FAST):
            pass
    assert sorted(backend.loads) == loaded
    assert len(set(loaded)) == len(loaded)


def test_what_is_loaded_depends_on_the_config(fake_bundle: Path, backend: FakeBackend) -> None:
    with Generator(fake_bundle) as generator:
        generator.load(GenerationConfig(guidance_scale=1.0))
        assert {name for name in backend.loads if name.startswith("denoiser")} == {"denoiser_cond"}


def test_threads_that_load_at_once_load_each_engine_once(fake_bundle: Path, backend: FakeBackend) -> None:
    with Generator(fake_bundle) as generator, ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(generator.load) for _ in range(4)]:
            done.result(TIMEOUT)
    assert sorted(backend.loads) == sorted(set(backend.loads))


def test_an_engine_that_cannot_be_loaded_is_named_and_the_others_are_kept(
    fake_bundle: Path, backend: FakeBackend
) -> None:
    backend.broken["vae_decoder"] = BackendError("engine vae_decoder: memory ran out")
    with Generator(fake_bundle) as generator:
        with pytest.raises(BackendError, match="engine vae_decoder: memory ran out"):
            generator.load()
        backend.broken.clear()
        generator.load()
        assert max(backend.loads.count(name) for name in backend.engines if name != "vae_decoder") == 1


@pytest.mark.usefixtures("two_cpus")
def test_of_two_broken_engines_the_one_named_first_is_reported(
    fake_bundle: Path, backend: FakeBackend, held: Held
) -> None:
    """Not the one that fails first, nor the larger one, whose load begins first."""
    bundle = Bundle.open(fake_bundle)
    names = sorted(("denoiser", "vae_decoder"), key=bundle.engine_size)
    for name in names:
        backend.broken[name] = BackendError(f"engine {name} is broken")
    engines, gate = Engines(bundle, choose("cpu", bundle), None), held(names[0])
    timer = threading.Timer(0.05, gate.set)
    timer.start()
    with engines.loading(names) as loading, pytest.raises(BackendError, match=f"engine {names[0]} is broken"):
        loading.wait()
    timer.join()
    engines.close()


def test_a_missing_engine_is_reported_before_anything_is_loaded(fake_bundle: Path, backend: FakeBackend) -> None:
    bundle = Bundle.open(fake_bundle)
    engines = Engines(bundle, choose("cpu", bundle), None)
    with pytest.raises(BundleNotFoundError, match="holds no engine 'unknown'"):
        engines.loading(("denoiser", "unknown"))
    assert backend.loads == []


def test_frames_are_those_without_loading(fake_bundle: Path, backend: FakeBackend) -> None:
    frames = []
    for early in (False, True):
        with Generator(fake_bundle) as generator:
            if early:
                generator.load()
            frames.append(frames_of(generator.generate(photo(), speech(0.1), config=FAST)))
    assert (frames[0] == frames[1]).all()


@pytest.mark.usefixtures("two_cpus")
def test_short_memory_loads_one_engine_after_another(
    fake_bundle: Path, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, loads: Loads
) -> None:
    load = backend.load

    def record(path: Path, *args: object, **kwargs: object) -> FakeEngine:
        loads(path.stem)
        return load(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "load", record)
    monkeypatch.setattr(loaded_engines, "free_memory", lambda: 0)
    with Generator(fake_bundle) as generator:
        generator.load()
    assert len(loads.begun) == 8
    assert loads.most == 1
