"""Install PyTorch, which `export` and the tests need, into the environment of the running Python.

    python scripts/install_torch.py [ARGUMENTS FOR PIP ...]

On a machine without an NVIDIA GPU, the script installs a CPU build if pip's sources have one. Otherwise it prints a
notice and installs the CUDA build. Arguments are passed to pip, for example to name another source.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

ACCEPTED = "torch>=2.13"
# CPU builds of this release are common in pip's sources, and pip prefers them: "2.13.0+cpu" sorts after "2.13.0". The
# default sources have later releases only as CUDA builds.
CPU_CANDIDATE = "torch==2.13.0"
NOTICE = """\
pip's sources have no CPU build of PyTorch for Python {version}. The CUDA build is installed instead, with {count}
CUDA packages of several GB that this machine without an NVIDIA GPU does not need. For a CPU build, press Ctrl-C and
name a source that has one: make PIP_TORCH_ARGS="--index-url ADDRESS" and the target."""
PIP = (sys.executable, "-m", "pip", "install", "-qq")


def resolve(requirement: str, arguments: list[str]) -> list[dict[str, Any]] | None:
    """Return the metadata of the packages that pip would install for a requirement; None if pip cannot satisfy it."""
    command = [*PIP, "--dry-run", "--ignore-installed", "--report", "-", *arguments, requirement]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        return None
    return [item["metadata"] for item in json.loads(answer.stdout)["install"]]


def cuda_packages(resolved: list[dict[str, Any]]) -> list[str]:
    """Return the names of the CUDA libraries among the packages."""
    return sorted(item["name"] for item in resolved if item["name"].lower().startswith(("nvidia-", "cuda-")))


def choose(arguments: list[str]) -> str:
    """Return the requirement to install; print NOTICE if it brings CUDA libraries that the machine does not need."""
    if shutil.which("nvidia-smi"):
        return ACCEPTED
    choice = ACCEPTED if arguments else CPU_CANDIDATE
    resolved = resolve(choice, arguments)
    if resolved is None:
        choice = ACCEPTED
        resolved = resolve(choice, arguments) or []
    if libraries := cuda_packages(resolved):
        print(NOTICE.format(count=len(libraries), version=".".join(map(str, sys.version_info[:2]))), flush=True)
    return choice


def main() -> int:
    """Install PyTorch and return pip's exit code."""
    arguments = sys.argv[1:]
    return subprocess.run([*PIP, *arguments, choose(arguments)]).returncode


if __name__ == "__main__":
    sys.exit(main())
