"""Weights of one's own training: which files replace networks of a checkpoint directory.

The public training code writes `STAGE/NETWORK-STEP.pth`, such as `exp_output/stage_3/denoising_unet-100001.pth`. STAGE
is the name of the configuration. With `save_all`, the default, a stage saves all `NETWORKS`, otherwise those that it
trains; the file of the denoising U-Net has the motion modules too. `export.pocket.train` writes one state for each
stage (`training_states.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from export.errors import CheckpointError
from export.networks.architecture import GUIDER_NETWORKS
from vexpress_rt.bundle.training_record import STAGES
from vexpress_rt.errors import ConfigError

NETWORKS = ("reference_net", "denoising_unet", "motion_module", *GUIDER_NETWORKS.values(), "audio_projection")
COMPONENTS = (*NETWORKS, "vae", "audio_encoder")  # names of --part
# The state of each stage of `export.pocket.train`, and the states that hold the other components, the newest first.
STATES = {1: "single", 2: "voice", 3: "all"}
OTHER_STATES = {"vae": ("decoder", "autoencoder"), "audio_encoder": ("hearing",)}
LATENTS = "latents-*.npz"  # training data that a run has encoded

PART, OF_STAGE, OF_CHECKPOINT = 0, 1, 9  # precedence; an earlier stage's comes between the last two

_STAGE_FOLDER = re.compile(r"stage_?([123])(?:\D.*)?")
_WEIGHTS = re.compile(rf"({'|'.join(NETWORKS)})-(\d{{1,18}})\.(?:pth|pt|bin|safetensors)")
_SHOWN = 8  # steps in an error message
_EXPECTED = (
    "expected folders stage_1 to stage_3 of the public training code, one of them (NETWORK-STEP.pth), or the states of "
    f"export.pocket.train ({', '.join(f'{name}.pt' for name in STATES.values())})"
)

Saved = dict[str, dict[int, Path]]  # file by network and step


@dataclass(frozen=True)
class TrainingChoice:
    """A choice of weights of one's own training. Without run and parts, all weights are the checkpoint directory's.

    Attributes:
        run: Folder of a training run, or of one of its stages.
        stage: 1, 2 or 3; at stage 1, voice and motion modules are off. None: the latest stage of the run.
        step: Step of the stage. None: the newest one for which the stage has all its networks.
        parts: File by component, some of `COMPONENTS`. They take precedence over the run.

    Raises:
        ConfigError: A component is unknown, or the options contradict each other.
    """

    run: Path | None = None
    stage: int | None = None
    step: int | None = None
    parts: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.parts if name not in COMPONENTS]:
            raise ConfigError(f"no network is named {', '.join(unknown)}; expected some of {', '.join(COMPONENTS)}")
        if self.stage is not None and self.stage not in STAGES:
            raise ConfigError(f"stage is {self.stage}; expected 1, 2 or 3")
        if self.run is None and self.step is not None:
            raise ConfigError(f"step {self.step} is given without a run: name its folder with --run")
        if not self and self.stage is not None:
            raise ConfigError(f"stage {self.stage} is given without weights of it: add --run or --part")

    def __bool__(self) -> bool:
        return self.run is not None or bool(self.parts)


@dataclass(frozen=True)
class TrainedFile:
    """A file that replaces a component.

    Attributes:
        path: The file.
        name: Its path in the run's folder, or its name.
        precedence: `PART`, `OF_STAGE`, or more for earlier stages.
    """

    path: Path
    name: str
    precedence: int


@dataclass(frozen=True)
class TrainedFiles:
    """The files of a choice.

    Attributes:
        files: File by component.
        run: Name of the run's folder.
        stage: 1, 2 or 3.
        step: Step of the stage.
        latents: The run's latents, whose spread scales those of the run's own autoencoder; None: the checkpoint
            directory's scale applies.
    """

    files: Mapping[str, TrainedFile] = field(default_factory=dict)
    run: str | None = None
    stage: int | None = None
    step: int | None = None
    latents: Path | None = None

    @property
    def voice_and_motion_off(self) -> bool:
        """Whether the weights are those of stage 1, which trains neither."""
        return self.stage == STAGES[0]


def find_trained_files(choice: TrainingChoice) -> TrainedFiles:
    """Find the files of a choice.

    Args:
        choice: The choice.

    Raises:
        CheckpointError: A file is missing, the run has no such stage or step, or its folder holds no training.
    """
    if choice.run is None:
        found = TrainedFiles(stage=choice.stage)
    elif not choice.run.is_dir():
        raise CheckpointError(f"{choice.run} is not a folder; {_EXPECTED}")
    elif any((choice.run / f"{name}.pt").is_file() for name in STATES.values()):
        found = _own_run(choice.run, choice.stage, choice.step)
    else:
        found = _public_run(choice.run, choice.stage, choice.step)
    if missing := [path for path in choice.parts.values() if not path.is_file()]:
        raise CheckpointError(f"{missing[0]} is not a file; expected weights for --part NETWORK=FILE")
    parts = {name: TrainedFile(path, path.name, PART) for name, path in choice.parts.items()}
    return replace(found, files={**found.files, **parts}, latents=None if "vae" in parts else found.latents)


def _public_run(run: Path, stage: int | None, step: int | None) -> TrainedFiles:
    base = run.resolve()
    if _saved(base):
        folder, stage = base, _stage_of(run, stage)
        if _STAGE_FOLDER.fullmatch(base.name):
            base = base.parent  # with the earlier stages
    else:
        stage, folder = _stage_in(run, stage)
    saved = _saved(folder)
    step = _complete_step(folder, saved, step)

    def file(path: Path, precedence: int) -> TrainedFile:
        return TrainedFile(path, path.relative_to(base).as_posix(), precedence)

    files = {network: file(steps[step], OF_STAGE) for network, steps in saved.items()}
    stages = _stages(base)
    for network in NETWORKS:
        for earlier in range(stage - 1, 0, -1):
            if network not in files and (path := _newest(network, stages.get(earlier, []))):
                files[network] = file(path, OF_STAGE + stage - earlier)
    return TrainedFiles(files, base.name, stage, step)


def _stage_of(folder: Path, stage: int | None) -> int:
    """Return the stage of a stage's folder."""
    if named := _STAGE_FOLDER.fullmatch(folder.resolve().name):
        if stage not in (None, int(named[1])):
            raise CheckpointError(f"{folder} is of stage {named[1]}, and --stage is {stage}: change one of them")
        return int(named[1])
    if stage is None:
        raise CheckpointError(
            f"the name of {folder} does not begin with a stage; expected stage_1 to stage_3: add --stage"
        )
    return stage


def _stage_in(run: Path, stage: int | None) -> tuple[int, Path]:
    """Return a run's stage, by default the latest, and its folder."""
    stages = _stages(run.resolve())
    if not stages:
        raise CheckpointError(f"{run} holds no weights of a training; {_EXPECTED}")
    stage = max(stages) if stage is None else stage
    if stage not in stages:
        names = ", ".join(path.name for paths in stages.values() for path in paths)
        raise CheckpointError(f"{run} has no weights of stage {stage}; it has {names}: choose another --stage")
    folder, *others = stages[stage]
    if others:
        names = ", ".join(path.name for path in stages[stage])
        raise CheckpointError(f"{run} has several folders of stage {stage}, {names}: name one of them with --run")
    return stage, folder


def _stages(base: Path) -> dict[int, list[Path]]:
    """Return the folders with weights by stage, in order."""
    found: dict[int, list[Path]] = {}
    for path in sorted(base.iterdir()):
        if (match := _STAGE_FOLDER.fullmatch(path.name)) and path.is_dir() and _saved(path):
            found.setdefault(int(match[1]), []).append(path)
    return dict(sorted(found.items()))


def _saved(folder: Path) -> Saved:
    found: Saved = {}
    for path in sorted(folder.iterdir()):
        if (match := _WEIGHTS.fullmatch(path.name)) and path.is_file():
            steps = found.setdefault(match[1], {})
            other = steps.setdefault(int(match[2]), path)
            if other != path:
                raise CheckpointError(
                    f"{folder} has {other.name} and {path.name}; expected one file for a network and step: remove one"
                )
    return found


def _complete_step(folder: Path, saved: Saved, step: int | None) -> int:
    """Return the step, or the newest one that all networks have."""
    complete = set.intersection(*(set(steps) for steps in saved.values()))
    if not complete:
        found = "; ".join(f"{network}: {_shown(steps)}" for network, steps in saved.items())
        raise CheckpointError(f"{folder} has no step of all its networks ({found}): use --part NETWORK=FILE")
    if step is None:
        return max(complete)
    if step not in complete:
        lacking = ", ".join(network for network, steps in saved.items() if step not in steps)
        raise CheckpointError(
            f"{folder} has no step {step} of {lacking}; complete steps: {_shown(complete)}: choose one with --step"
        )
    return step


def _shown(steps: Iterable[int]) -> str:
    newest = sorted(steps)[-_SHOWN:]
    return ("..., " if len(newest) < len(set(steps)) else "") + ", ".join(map(str, newest))


def _newest(network: str, folders: list[Path]) -> Path | None:
    """Return the file of a network of the newest complete step in a stage's folders."""
    held = [(folder, saved) for folder in folders if network in (saved := _saved(folder))]
    if len(held) > 1:
        names = " and ".join(folder.name for folder, _ in held)
        raise CheckpointError(
            f"the stage saved no {network}, and both {names} hold it: name its file with --part {network}=FILE"
        )
    return next((saved[network][_complete_step(folder, saved, None)] for folder, saved in held), None)


def _own_run(run: Path, stage: int | None, step: int | None) -> TrainedFiles:
    from export.checkpoint.training_states import read_contents  # imports torch, which takes seconds

    present = {number: run / f"{name}.pt" for number, name in STATES.items() if (run / f"{name}.pt").is_file()}
    stage = max(present) if stage is None else stage
    if stage not in present:
        names = ", ".join(f"{path.name} (stage {number})" for number, path in present.items())
        raise CheckpointError(f"{run} has no {STATES[stage]}.pt, the state of stage {stage}; it has {names}")
    found, networks = read_contents(present[stage])
    if step is not None and step != found:
        holds = "no step, as recovered states do" if found is None else f"step {found} alone"
        raise CheckpointError(f"{present[stage]} holds {holds}, and --step is {step}: leave --step out")
    held = {network: present[stage] for network in NETWORKS if network in networks}
    for component, names in OTHER_STATES.items():
        if paths := [path for name in names if (path := run / f"{name}.pt").is_file()]:
            held[component] = paths[0]
    latents = min(run.glob(LATENTS), default=None)
    if "vae" in held and latents is None:
        raise CheckpointError(
            f"{run} has {held['vae'].name}, but no {LATENTS}, whose spread scales that autoencoder: run "
            f"`python -m export.pocket.train --output {run} --stages encode`"
        )
    files = {component: TrainedFile(path, path.name, OF_STAGE) for component, path in held.items()}
    return TrainedFiles(files, run.resolve().name, stage, found, latents if "vae" in held else None)
