"""Install PyTorch, which `export` and the tests need, into the environment whose Python runs this.

    python scripts/install_torch.py [ARGUMENTS FOR PIP ...]

A machine without an NVIDIA GPU gets a CPU build where pip's sources hold one. Where they hold only the CUDA build,
that one is installed, and this says so before it starts. Arguments go to pip, to name another source for instance.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

ACCEPTED = "torch>=2.13"
# Releases beyond this one come as CUDA builds where only the default sources are asked; of this one, CPU builds are
# about, and pip prefers them: "2.13.0+cpu" sorts after "2.13.0".
CPU_CANDIDATE = "torch==2.13.0"
NOTICE = """\
pip's sources hold no CPU build of PyTorch for Python {version}. What follows is the CUDA build with {count} packages of
CUDA, several GB, which this machine without an NVIDIA GPU does not need. To have a CPU build instead, stop this now and
name a source that holds one: make PIP_TORCH_ARGS="--index-url ADDRESS" and the target."""
PIP = (sys.executable, "-m", "pip", "install", "-qq")


def resolve(requirement: str, arguments: list[str]) -> list[dict[str, Any]] | None:
    """Metadata of what pip would install for `requirement`, without installing; None where nothing fits it."""
    command = [*PIP, "--dry-run", "--ignore-installed", "--report", "-", *arguments, requirement]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        return None
    return [item["metadata"] for item in json.loads(answer.stdout)["install"]]


def cuda_packages(resolved: list[dict[str, Any]]) -> list[str]:
    """Names of the CUDA libraries among what pip would install."""
    return sorted(item["name"] for item in resolved if item["name"].lower().startswith(("nvidia-", "cuda-")))


def choose(arguments: list[str]) -> str:
    """The requirement to install, after saying what it brings along where that is not what the machine wants."""
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
    """Choose and install; returns pip's exit code."""
    arguments = sys.argv[1:]
    return subprocess.run([*PIP, *arguments, choose(arguments)]).returncode


if __name__ == "__main__":
    sys.exit(main())
