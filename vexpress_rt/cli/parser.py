"""The flags of the command line: ours, and what becomes of upstream's."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from vexpress_rt import __version__
from vexpress_rt.config import (
    CHOICES,
    CROP_MODES,
    REBUILD,
    RECOMMENDABLE,
    RENAMED_OPTIONS,
    RENAMED_VALUES,
    RETARGET_MODES,
    WINDOW_ORDERS,
    GenerationConfig,
    Settings,
)

# Upstream's name of a flag: ours. Names that differ in nothing but underscores need no entry.
ALIASES = {
    "reference-image-path": "image",
    "audio-path": "audio",
    "kps-path": "keypoints",
    "output-path": "output",
    "retarget-strategy": "retarget",
    "num-inference-steps": "steps",
    "context-overlap": "overlap",
}
_BUILT = "decided when the bundle is built: python -m export.build"
_WEIGHTS = f"{_BUILT} --weights DIR reads the whole checkpoint directory"
_CHECKPOINT = "decided by the checkpoint that the bundle is built from"
_BUNDLE = "bundle that python -m export.build wrote (default: the small one that ships with vexpress-rt)"
_PROVIDER = "not a choice here: --provider says what runs the engines"
REFUSED = {
    "context-frames": f"{_BUILT} --frames N",
    "context-stride": "not offered: windows take neighbouring frames",
    "image-width": f"{_BUILT} --width W",
    "image-height": f"{_BUILT} --height H",
    "dtype": f"{_BUILT} --precision fp32 or fp16",
    "unet-config-path": _WEIGHTS,
    "vae-path": _WEIGHTS,
    "audio-encoder-path": _WEIGHTS,
    "insightface-model-path": _WEIGHTS,
    "denoising-unet-path": _WEIGHTS,
    "reference-net-path": _WEIGHTS,
    "v-kps-guider-path": _WEIGHTS,
    "audio-projection-path": _WEIGHTS,
    "motion-module-path": _WEIGHTS,
    "num-pad-audio-frames": _CHECKPOINT,
    "standard-audio-sampling-rate": _CHECKPOINT,
    "device": _PROVIDER,
    "gpu-id": _PROVIDER,
    "do-multi-devices-inference": "not offered: run a process for each video",
    "save-gpu-memory": "not needed: leave it out",
}

RENAMED = {old.replace("_", "-"): new.replace("_", "-") for old, new in RENAMED_OPTIONS.items()}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Arguments -> what was asked for: `command`, and its flags under our names.

    Raises SystemExit: 2 for wrong usage, told on stderr; 0 for --help and --version.
    """
    parser = argparse.ArgumentParser(
        prog="vexpress-rt", description="Talking-portrait video from a photo and speech.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"vexpress-rt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="generate | inspect | compile")
    _add_generate(commands)
    _add_inspect(commands)
    _add_compile(commands)
    return parser.parse_args(_canonical(arguments, parser))


def _canonical(arguments: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """The arguments under our own flag names. Ends the program over flags of upstream that have no place here."""
    result: list[str] = []
    refused: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return [*result, *arguments[position:]]
        flag, equals, value = argument.partition("=")
        if flag.startswith("--"):
            name = flag[2:].replace("_", "-")
            if name in REFUSED:
                refused.append(f"{flag} is {REFUSED[name]}")
            if name in RENAMED:
                refused.append(f"{flag} is called --{RENAMED[name]} now")
            argument = f"--{ALIASES.get(name, name)}{equals}{value}"
        elif re.fullmatch(r"-[\d.]+,-?[\d.]+", argument):
            argument = f" {argument}"  # a point left of the photo, which argparse would take for a flag
        result.append(argument)
    if refused:
        parser.error("\n  ".join(refused))
    return result


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser(
        "generate",
        allow_abbrev=False,
        help="make a video",
        description="Make a video. The flag names of the public V-Express inference.py are understood as well.",
        usage="%(prog)s [--engines DIR] --image FILE --audio FILE --output FILE [option ...]",
    )
    _add_files(parser.add_argument_group("what goes in and out").add_argument)
    options = parser.add_argument_group("how the video is made")
    _add_options(options.add_argument)
    options.add_argument("--noise", choices=["upstream"], help="take the public implementation's noise for the seed")
    running = parser.add_argument_group("how it runs").add_argument
    words = "what runs the engines: tensorrt, cuda, cpu, or the best of these that is there (default: auto)"
    running("--provider", default="auto", metavar="NAME", help=words)
    words = "whether to compile a bundle's plans anew that are of another GPU or TensorRT, or damaged (default: auto)"
    running("--rebuild", choices=REBUILD, default=REBUILD[0], help=words)
    words = (
        "order in which context windows are denoised: as a wavefront (default), or step by step over the whole video; "
        "frames are the same"
    )
    running("--window-order", type=_window_order, choices=WINDOW_ORDERS, default=WINDOW_ORDERS[0], help=words)
    words = "CPU threads, limited to the CPUs that this process may use (default: one per core)"
    running("--threads", type=int, metavar="N", help=words)
    words = "on the CPU, one copy of the weights for both denoisers: less memory where both are needed, and slower"
    running("--share-weights", action="store_true", help=words)
    running("--quiet", action="store_true", help="tell nothing but warnings, notes on faulty inputs, and errors")


def _add_files(add: Callable[..., object]) -> None:
    add("--engines", metavar="DIR", help=_BUNDLE)
    add("--image", metavar="FILE", required=True, help="photo of the face")
    add("--audio", metavar="FILE", required=True, help="speech: a sound file, or a video, whose sound is taken")
    add("--output", metavar="FILE", required=True, help=".mp4, .mov or .mkv; appears when it is complete")
    add(
        "--keypoints", metavar="FILE", type=lambda name: name or None,  # upstream passes "" for none
        help=".pth, .npy or .npz in pixels of the bundle's picture, or a driving video, in which faces are searched",
    )  # fmt: skip
    add(
        "--keypoints-size", metavar="WxH", type=_size,
        help="pixels of the pictures that a file of keypoints was made from (default: the bundle's)",
    )  # fmt: skip
    add(
        "--image-keypoints", metavar="X,Y", nargs=3, type=_point,
        help="left eye, right eye and nose in pixels of the photo; nothing is searched then",
    )  # fmt: skip
    words = "cut the photo around the face, or stretch it (default: face)"
    add("--crop", choices=CROP_MODES, default="face", help=words)
    words = "how keypoints are fitted to the photo's face (default: no_retarget with keypoints, fix_face without)"
    add("--retarget", choices=RETARGET_MODES, help=words)


def _add_options(add: Callable[..., object]) -> None:
    """A flag for each option of GenerationConfig, with the type, the default and the words that it has there.

    Those that a bundle may decide stay None unless they are given.
    """
    lines = re.findall(r"^(\w+): (.+(?:\n +.+)*)", inspect.getdoc(GenerationConfig) or "", re.MULTILINE)
    words = {name: " ".join(text.split()).rstrip(".").replace("%", "%%") for name, text in lines}
    for option in fields(Settings):
        flag, text = option.name.replace("_", "-"), words.get(option.name, "")
        decided = option.name not in RECOMMENDABLE
        default = option.default if decided else None
        usual = _usual(option.default)
        text += f" (default: {usual}{'' if decided else ', unless preset or bundle say otherwise'})"
        if option.type == "bool":
            add(f"--{flag}", action=argparse.BooleanOptionalAction, default=default, help=text)
        else:
            kind, metavar = _KINDS.get(str(option.type), (str, flag.upper()))
            choices = CHOICES.get(option.name)
            add(
                f"--{flag}", type=kind, default=default, choices=choices, metavar=None if choices else metavar,
                help=text,
            )  # fmt: skip


def _usual(default: object) -> str:
    """The value of an option as it is written on the command line."""
    if isinstance(default, bool):
        return "on" if default else "off"
    return ",".join(f"{bound:g}" for bound in default) if isinstance(default, tuple) else str(default).lower()


def _add_inspect(commands: Any) -> None:
    parser = commands.add_parser("inspect", allow_abbrev=False, help="tell what a bundle of engines holds")
    parser.add_argument("bundle", metavar="DIR", nargs="?", help=_BUNDLE)
    parser.add_argument("--verify", action="store_true", help="read every file and compare it with its sha256")
    parser.add_argument("--json", action="store_true", help="print the manifest")


def _add_compile(commands: Any) -> None:
    words = "compile a bundle's plans for this machine's GPU and TensorRT, if it lacks them"
    parser = commands.add_parser("compile", allow_abbrev=False, help=words)
    parser.add_argument("bundle", metavar="DIR", help="bundle that python -m export.build wrote, for TensorRT")


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = text.split(",")
        return float(x), float(y)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no point; expected X,Y in pixels, such as 203.5,260") from None


def _interval(text: str) -> tuple[float, float]:
    try:
        low, high = text.split(",")
        return float(low), float(high)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no interval; expected LOW,HIGH, such as 0.2,0.8") from None


def _window_order(text: str) -> str:
    if text in RENAMED_VALUES:
        raise argparse.ArgumentTypeError(f"{text} is called {RENAMED_VALUES[text]} now")
    return text


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected WxH in pixels, such as 512x512")
    return int(match[2]), int(match[1])  # (height, width)


# By the type of an option: what reads it, and the name of its value.
_KINDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "int": (int, "N"), "float": (float, "X"), "tuple[float, float]": (_interval, "LOW,HIGH"),
}  # fmt: skip
