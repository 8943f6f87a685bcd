"""Engines in a process that was forked after they were loaded, and before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

FORK = """
import os, sys
import numpy as np
from vexpress_rt import Generator
from vexpress_rt.errors import BackendError

def child_exits_with_0(work):
    child = os.fork()
    if child == 0:
        work()
        sys.exit()  # with the destructors of all engines
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def refused():
    for use in (lambda: generator.prepare(photo), generator.load, lambda: engine.run({})):
        try:
            use()
        except BackendError as error:
            assert "loaded its engines before this process was forked" in str(error), error
            assert "make a new Generator in this process, or start processes with" in str(error)
        else:
            raise AssertionError("used in the forked process")
    generator.close()
    with Generator(threads=2) as another:
        another.prepare(photo)

photo = np.full((64, 64, 3), 90, np.uint8)
generator = Generator(threads=2)
child_exits_with_0(lambda: generator.prepare(photo))
generator.prepare(photo)
engine = generator._engines.get("vae_encoder")
child_exits_with_0(refused)
generator.prepare(photo)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_uses_no_engine_of_its_parent_and_ends() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
