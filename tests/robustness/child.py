"""The process in which inputs are read: `python -m tests.robustness.child READER FOLDER SEED FIRST MEMORY [FILE]`.

It reports to its parent on stdout, one JSON object per line: the start of each input, and its outcome. An input is
written to disk before it is read, so that an input that kills the process is found. Other failures are copied to
`failed`.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from itertools import count
from pathlib import Path

from tests.robustness.cases import Case, Reader, chance_of
from tests.robustness.limits import Measure, restrict
from tests.robustness.readers import READERS, planted

ACCEPTED, REFUSED, FAILED = "accepted", "refused", "FAILED"
LONGEST_MESSAGE = 8000  # characters; some errors list every tensor of an engine
Report = Callable[..., None]


def main(arguments: list[str]) -> None:
    name, folder, seed, first, memory = arguments[0], Path(arguments[1]), *map(int, arguments[2:5])
    report = _redirect(folder)
    reader = (READERS | planted.READERS)[name](folder / "work")
    from vexpress_rt.backends.cuda import runtime

    runtime.count()  # before the limits: CUDA's library looks up its own path, once per process
    restrict()
    if len(arguments) > 5:
        kept = Path(arguments[5])
        measure = Measure(folder, max(memory, reader.memory))
        _run(reader, Case(kept.suffix, kept.read_bytes()), 0, folder, measure, report)
        return
    seeds = _seeds(reader, folder / "seeds" / name)
    report(ready=len(seeds))
    measure = Measure(folder, max(memory, reader.memory))  # after the seeds, whose encoders may print
    for number in count(first):
        _run(reader, reader.make(chance_of(seed, name, number), seeds), number, folder, measure, report)


def _run(reader: Reader, case: Case, number: int, folder: Path, measure: Measure, report: Report) -> None:
    from vexpress_rt.errors import VExpressError

    path = folder / "inputs" / f"input{case.suffix}"
    for before in path.parent.iterdir():  # only now, because memory damage by the last input may show until here
        before.unlink()
    path.write_bytes(case.content)
    report(begin=number, suffix=case.suffix)
    findings: list[str] = []
    outcome, detail = ACCEPTED, ""
    with measure.watched(findings, path, noisy=case.content.startswith(reader.noisy)):
        try:
            reader.read(path)
        except VExpressError as error:
            outcome, detail = REFUSED, type(error).__name__
            findings += _unfit(str(error))
        except SystemExit as error:  # wrong usage of the command line
            outcome, detail = REFUSED, f"exit {error.code}"
        except BaseException as error:
            findings.append(f"exception: {_place(error)}: {type(error).__name__}: {str(error)[:300]}")
            detail = traceback.format_exc()
    if findings:
        shutil.copyfile(path, folder / "failed" / f"{number}{case.suffix}")
    report(end=number, outcome=FAILED if findings else outcome, findings=findings, detail=detail)


def _unfit(message: str) -> list[str]:
    """Return a finding for an empty or too long error message."""
    if message.strip() and len(message) <= LONGEST_MESSAGE:
        return []
    return [f"message: an error of {len(message)} characters: {message[:200]!r}"]


def _place(error: BaseException) -> str:
    """Return the innermost line of the package in an exception's traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "vexpress_rt" in frame.filename]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"


def _redirect(folder: Path) -> Report:
    """Return the function that reports to the parent. Redirect all other output to a file for `Measure`."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    printed = os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC)
    os.dup2(printed, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    faulthandler.enable()
    logging.getLogger("vexpress_rt").addHandler(logging.NullHandler())

    def report(**values: object) -> None:
        pipe.write(json.dumps(values) + "\n")

    return report


def _seeds(reader: Reader, folder: Path) -> list[Case]:
    """Return the reader's seeds. They are made once per campaign and read again by each new child."""
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for index, case in enumerate(reader.seeds()):
            (folder / f"{index:04}{case.suffix}").write_bytes(case.content)
        (folder / "complete").touch()
    files = sorted(path for path in folder.iterdir() if path.name != "complete")
    return [Case(path.suffix, path.read_bytes()) for path in files]


if __name__ == "__main__":
    main(sys.argv[1:])
