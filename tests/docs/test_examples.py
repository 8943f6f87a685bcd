"""Every Python and shell example of the documentation runs, or at least parses: see `tests.docs.examples`."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from demo.inputs import SPEECH, make_inputs
from tests.docs.examples import PAGES, PYTHON, ROOT, SHELL, Block, blocks, commands, script

SECONDS = 0.48  # of the recordings: one window of the small model
WITHOUT_PARSER = frozenset({"git", "cd", ".", "source", "apt-get", "docker"})
PYTHONS = frozenset({"python", "python3", ".venv/bin/python"})


def ids(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


PAGES_THAT_RUN = [
    page for page in PAGES if any(not block.reason and block.language in PYTHON | SHELL for block in blocks(page))
]
NOT_RUN = [block for page in PAGES for block in blocks(page) if block.reason]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that examples may read."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "out").mkdir()
    (folder / "demo").mkdir()
    (folder / "engines").mkdir()
    (folder / "engines" / "pocket").symlink_to(ROOT / "engines" / "pocket")
    samples, rate = read_speech(SPEECH)
    speech = samples[: round(SECONDS * rate)]
    write_wave(folder / "speech.wav", speech, rate)
    write_flac(folder / "demo" / "speech.flac", speech, rate)
    make_inputs(folder / "out", folder / "speech.wav", (128, 128), Fraction(25))
    Image.open(folder / "out" / "portrait_a.png").convert("RGB").save(folder / "photo.jpg", quality=95)
    shutil.copy(folder / "out" / "keypoints_a.npy", folder / "keypoints.npy")
    shutil.copy(folder / "out" / "driving.mp4", folder / "driving.mp4")
    return folder


def read_speech(path: Path) -> tuple[np.ndarray, int]:
    """Return a mono recording as int16 samples and its rate."""
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        resampler = av.AudioResampler("s16", "mono", rate)
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]), rate


def write_wave(path: Path, samples: np.ndarray, rate: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


def write_flac(path: Path, samples: np.ndarray, rate: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=rate, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("page", PAGES_THAT_RUN, ids=ids)
def test_the_examples_of_a_page_run(page: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work"
    shutil.copytree(inputs, folder, symlinks=True)
    monkeypatch.chdir(folder)
    namespace: dict[str, object] = {"__name__": "example"}
    for block in blocks(page):
        if block.reason:
            continue
        if block.language in PYTHON:
            exec(compiled(block), namespace)
        elif block.language in SHELL:
            run_shell(block, folder)


def compiled(block: Block) -> object:
    """Return the code of a block, whose lines have the numbers of the page."""
    tree = ast.parse(block.text, filename=block.name)
    ast.increment_lineno(tree, block.line - 1)
    return compile(tree, str(block.page), "exec", flags=0, dont_inherit=True)


def run_shell(block: Block, folder: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script(block)],
        cwd=folder, env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{block.name} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"


def test_python_that_is_not_run_compiles() -> None:
    for block in NOT_RUN:
        if block.language in PYTHON:
            compiled(block)


def test_flags_of_commands_that_are_not_run_are_accepted() -> None:
    named = [(block, command) for block in NOT_RUN if block.language in SHELL for command in commands(block)]
    known = [(block, command, check(command)) for block, command in named]
    wrong = [f"{block.name}: {' '.join(command)}: {found}" for block, command, found in known if isinstance(found, str)]
    parsers = [(block, found) for block, _, found in known if isinstance(found, list)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.command_flags"], input=json.dumps([found for _, found in parsers]),
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    complaints = json.loads(done.stdout)
    assert len(parsers) == len(complaints) > 10
    wrong += [
        f"{block.name}: {' '.join(found)}: {complaint}"
        for (block, found), complaint in zip(parsers, complaints, strict=True) if complaint
    ]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def check(command: list[str]) -> str | list[str] | None:
    """Check a command of a block that is not run.

    Returns:
        A complaint; the module or script with its arguments, for `command_flags`; None for a correct command.
    """
    name, *arguments = command
    if name == "vexpress-rt":
        return ["vexpress_rt", *arguments]
    if name in PYTHONS and arguments[:2] == ["-m", "pytest"]:
        missing = [part for part in arguments[2:] if part.startswith("tests") and not (ROOT / part).exists()]
        return f"there is no {', '.join(missing)}" if missing else None
    if name in PYTHONS:
        return arguments[1:] if arguments[0] == "-m" else arguments
    if name == "make":
        return check_make(arguments)
    if name == "pip":
        return check_pip(arguments)
    return None if name in WITHOUT_PARSER else "the test does not know this command: add it, or leave it out"


def check_make(arguments: list[str]) -> str | None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^(\w[\w-]*):", makefile, re.MULTILINE)
    names = [argument.partition("=")[0] for argument in arguments]
    known = [
        f"$({name})" in makefile if "=" in argument else name in targets
        for name, argument in zip(names, arguments, strict=True)
    ]
    return None if all(known) else f"the Makefile has the targets {', '.join(targets)}"


def check_pip(arguments: list[str]) -> str | None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    ours = [match for argument in arguments if (match := re.fullmatch(r"(?:\.|vexpress-rt)\[([\w,-]+)\]", argument))]
    unknown = {extra for match in ours for extra in match[1].split(",")} - extras.keys()
    return f"pyproject.toml has no extra {', '.join(unknown)}" if unknown else None


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("vexpress-rt inspect --no-such-flag", "no-such-flag"),
        ("vexpress-rt inspect --verify engines/pocket", ""),
        ("python -m export.build --widht 3", "widht"),
        ("python -m export.build --width 128", ""),
        ("python scripts/kill.py --kills many", "many"),
        ("make tset", "targets"),
        ("make test PYTEST_ARGS=-x", ""),
        ("pip install '.[exporter]'", "exporter"),
        ("python -m pytest tests/no_such_folder", "no_such_folder"),
        ("curl example.org", "know"),
    ],
)
def test_wrong_commands_are_found(command: str, found: str) -> None:
    (words,) = commands(Block(ROOT / "README.md", 1, "sh", command))
    said = check(words)
    if isinstance(said, list):
        done = subprocess.run(
            [sys.executable, "-m", "tests.docs.command_flags"], input=json.dumps([said]),
            cwd=ROOT, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        (said,) = json.loads(done.stdout)
    assert bool(said) == bool(found)
    assert found in (said or "")


def test_blocks_are_found_with_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "text\n<!-- example: not run: takes hours -->\n```sh\nmake\n```\n\n* item\n    ```console\n    $ ls \\\n"
        "    a\n    ```\n<!-- example: setup\nx = 1\n-->\n```python\nx\n```\n",
        encoding="utf-8",
    )
    found = [(block.line, block.language, block.text, block.reason) for block in blocks(page)]
    assert found == [
        (4, "sh", "make", "takes hours"),
        (9, "console", "$ ls \\\na", ""),
        (13, "python", "x = 1", ""),
        (16, "python", "x", ""),
    ]


def test_commands_are_split() -> None:
    text = "A=1 make test FUZZ_ARGS='--seed 7' \\\n  # why\ncd x && git log | cat; ls  # end"
    found = list(commands(Block(ROOT / "README.md", 1, "sh", text)))
    assert found == [["make", "test", "FUZZ_ARGS=--seed 7"], ["cd", "x"], ["git", "log"], ["cat"], ["ls"]]
