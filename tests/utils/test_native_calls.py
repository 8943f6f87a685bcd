"""A process keeps its exit code while a daemon thread generates videos, and leaves no partial file."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from vexpress_rt import BackendError
from vexpress_rt.utils import native_calls
from vexpress_rt.utils.worker import Worker

# The main thread waits until the daemon thread has printed a line, and ends at some moment after it.
_DAEMON = """
import sys, threading, time
from pathlib import Path
import numpy as np
from vexpress_rt import GenerationConfig, Generator

folder, delay, code = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
begun = threading.Event()

def work(name):
    with Generator(provider="cpu") as generator:
        photo, sound = np.full((96, 96, 3), 90, np.uint8), np.zeros(4800, np.float32)
        portrait = generator.prepare(photo, keypoints=[[34, 40], [62, 40], [48, 58]])
        begun.set()
        while True:
            config = GenerationConfig(steps=1, overlap=0)
            generator.generate(portrait, (sound, 16000), config=config, output=folder / f"{name}.mp4")

for name in ("one", "two"):
    threading.Thread(target=work, args=(name,), daemon=True).start()
assert begun.wait(120)
time.sleep(delay)
sys.exit(code)
"""


@pytest.mark.parametrize("delay", [0, 0.05, 0.2, 0.35, 0.6, 1.1])
def test_a_process_keeps_its_exit_code_while_daemon_threads_generate(tmp_path: Path, delay: float) -> None:
    command = [sys.executable, "-c", _DAEMON, str(tmp_path), str(delay), "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stderr) == (7, "")
    assert {path.name for path in tmp_path.iterdir()} <= {"one.mp4", "two.mp4"}


_THREAD = """
import sys, threading, time
from vexpress_rt.utils.worker import Worker

def work():
    time.sleep(0.3)  # the main thread has ended
    with Worker(print) as write:
        for item in range(20):
            write(item)

threading.Thread(target=work).start()
"""


def test_a_thread_that_is_no_daemon_makes_its_video_after_the_main_thread_ended() -> None:
    done = subprocess.run([sys.executable, "-c", _THREAD], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == ([str(item) for item in range(20)], "")


_CHILD = """
import os, threading, time
from vexpress_rt.utils.native_calls import native_call

def stay():
    with native_call():
        time.sleep(600)

threading.Thread(target=stay, daemon=True).start()
time.sleep(0.2)
child = os.fork()
if child == 0:
    raise SystemExit(3)  # does not wait for a thread that only its parent has
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), flush=True)
os._exit(0)
"""


def test_a_forked_process_does_not_wait_for_the_calls_of_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CHILD],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "3\n"


def test_threads_that_the_system_refuses_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(BackendError, match=r"starts no more threads \(can't start new thread\): raise the limit"):
        Worker(print).__enter__()


def test_a_cancelled_call_ends_its_thread_silently() -> None:
    code = """
import threading, time
from vexpress_rt.utils.native_calls import native_call

cut = threading.Event()
entered = threading.Event()

def work():
    with native_call(cut.set):
        entered.set()
        assert cut.wait(30)
        raise RuntimeError("terminated, as a library says")

threading.Thread(target=work, daemon=True).start()
entered.wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr == ""


def test_calls_are_counted_while_they_run() -> None:
    with native_calls.native_call():
        assert [thread for thread, _ in native_calls._calls.running.values()] == [threading.get_ident()]
    assert native_calls._calls.running == {}
