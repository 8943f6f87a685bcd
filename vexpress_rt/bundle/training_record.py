"""The record, in a manifest, of weights that replaced some of the checkpoint directory's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as brief
from typing import Any

from vexpress_rt.bundle.untrusted_json import malformed, plain_name, record, sha256

STAGES = (1, 2, 3)
TEXT_LIMIT = 512  # characters
STEP_LIMIT = 10**18


@dataclass(frozen=True)
class TrainedFileEntry:
    """A file of trained weights.

    Attributes:
        file: Its path in the run's folder, or its name. It is for display alone: no file of this name is opened.
        sha256: Its hash, 64 lower-case hexadecimal digits.
    """

    file: str
    sha256: str


@dataclass(frozen=True)
class TrainingRecord:
    """Where the weights came from.

    Attributes:
        files: File by network, such as "denoising_unet" or "motion_module".
        run: Name of the training run's folder, without its path; None: files were named one by one.
        stage: Stage of the training, 1 to 3; at stage 1, voice and motion are off. None: not given.
        step: Step of the stage; None: not known.
    """

    files: Mapping[str, TrainedFileEntry]
    run: str | None = None
    stage: int | None = None
    step: int | None = None

    @property
    def voice_and_motion_off(self) -> bool:
        """Whether frames depend neither on the voice nor on other frames."""
        return self.stage == STAGES[0]

    def describe(self) -> str:
        """Return run, stage and step as a line of text."""
        facts = [f"run {self.run}"] if self.run is not None else ["single files"]
        facts += [f"stage {self.stage}"] if self.stage is not None else []
        facts += [f"step {self.step}"] if self.step is not None else []
        return ", ".join(facts) + ("; voice and motion are off" if self.voice_and_motion_off else "")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values. Attributes that are None have no key."""
        facts = {"run": self.run, "stage": self.stage, "step": self.step}
        files = {network: {"file": entry.file, "sha256": entry.sha256} for network, entry in self.files.items()}
        return {name: value for name, value in facts.items() if value is not None} | {"files": files}

    @classmethod
    def from_json(cls, data: object, where: str = "training") -> TrainingRecord:
        """Read the result of `to_json`.

        Args:
            data: The parsed JSON.
            where: Its place in the manifest, for messages.

        Raises:
            BundleDamagedError: The data is malformed; the message names the fault.
        """
        values = record(
            data, where, {"files": dict, "run": str, "stage": int, "step": int}, optional=("run", "stage", "step")
        )
        if "run" in values:
            _text(values["run"], f"{where}.run")
        if values.get("stage", STAGES[0]) not in STAGES:
            malformed(f"{where} has stage = {brief(values['stage'])}; expected 1, 2 or 3")
        if not 0 <= values.get("step", 0) < STEP_LIMIT:
            malformed(f"{where} has step = {brief(values['step'])}; expected 0 or more")
        files = {}
        for network, item in values["files"].items():
            plain_name(network, f"{where}.files")
            entry = record(item, f"{where}.files.{network}", {"file": str, "sha256": str})
            _text(entry["file"], f"{where}.files.{network}.file")
            sha256(entry["sha256"], f"{where}.files.{network}.sha256")
            files[network] = TrainedFileEntry(**entry)
        return cls(**(values | {"files": files}))


def printable(name: str) -> str:
    """Return a name as a record can hold it: at most TEXT_LIMIT characters, with "?" for those that do not print.

    Args:
        name: The name of a file or folder.
    """
    return "".join(char if char.isprintable() else "?" for char in name)[:TEXT_LIMIT] or "?"


def _text(text: str, where: str) -> None:
    if text != printable(text):
        malformed(f"{where} is {brief(text)}; expected 1 to {TEXT_LIMIT} printable characters")
