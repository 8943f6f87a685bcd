"""The flags of the command line: those of this package, and those of the public `inference.py`."""

from __future__ import annotations

import argparse
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
    WAVEFRONT,
    WINDOW_ORDERS,
    GenerationConfig,
    Settings,
    option_help,
)
from vexpress_rt.utils.project_links import EXPORTER_PLACE

# Flags of the public inference.py with another name here. Names that differ only in underscores need no entry.
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
_PART = f"{_BUILT} --part"
_CHECKPOINT = "decided by the checkpoint that the bundle is built from"
_BUNDLE = "bundle that python -m export.build wrote (default: the small one that ships with vexpress-rt)"
# The formatter leaves the lines of the epilog as they are, so that the address is not broken.
_EPILOG: dict[str, Any] = {
    "epilog": f"python -m export.build is {EXPORTER_PLACE}",
    "formatter_class": argparse.RawDescriptionHelpFormatter,
}
_PROVIDER = "not a choice here: --provider says what runs the engines"
# Flags of the public inference.py that have no meaning here, each with the remedy.
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
    "denoising-unet-path": f"{_PART} denoising_unet=FILE",
    "reference-net-path": f"{_PART} reference_net=FILE",
    "v-kps-guider-path": f"{_PART} v_kps_guider=FILE",
    "audio-projection-path": f"{_PART} audio_projection=FILE",
    "motion-module-path": f"{_PART} motion_module=FILE",
    "test-stage": f"{_BUILT} --run DIR --stage 1, 2 or 3",
    "num-pad-audio-frames": _CHECKPOINT,
    "standard-audio-sampling-rate": _CHECKPOINT,
    "gpu-id": _PROVIDER,
    "do-multi-devices-inference": "not offered: run a process for each video",
    "save-gpu-memory": "not needed: leave it out",
}

RENAMED = {old.replace("_", "-"): new.replace("_", "-") for old, new in RENAMED_OPTIONS.items()}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line.

    Args:
        arguments: Arguments after the name of the program.

    Returns:
        `command`, and the flags of that command under the names of this package.

    Raises:
        SystemExit: 2 for wrong usage, with a message on stderr; 0 for --help and --version.
    """
    parser = argparse.ArgumentParser(
        prog="vexpress-rt", description="Talking-portrait video from a photo and speech.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"vexpress-rt {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="generate | inspect | compile | tune | cache"
    )
    _add_generate(commands)
    _add_inspect(commands)
    _add_compile(commands)
    _add_tune(commands)
    _add_cache(commands)
    return parser.parse_args(_canonical(arguments, parser))


def _canonical(arguments: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Return the arguments with the flag names of this package. Exits if a flag is refused."""
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
            argument = f" {argument}"  # a point with a negative x, which argparse would parse as a flag
        result.append(argument)
    if refused:
        if any("export.build" in line for line in refused):
            refused.append(f"python -m export.build is {EXPORTER_PLACE}")
        parser.error("\n  ".join(refused))
    return result


def _add_generate(commands: Any) -> None:
    from vexpress_rt.backends.registry import AUTO, PROVIDERS, device_names, provider_names
    from vexpress_rt.bundle.engine_spec import PRECISIONS

    names = [name for name in provider_names() if name != AUTO]
    several = ", ".join(provider.name for provider in PROVIDERS if provider.devices)
    reducing = ", ".join(provider.name for provider in PROVIDERS if provider.computes_in)
    parser = commands.add_parser(
        "generate",
        allow_abbrev=False,
        **_EPILOG,
        help="make a video",
        description="Make a video. The flag names of the public V-Express inference.py are understood as well.",
        usage="%(prog)s [--engines DIR] --image FILE --audio FILE --output FILE [option ...]",
    )
    _add_files(parser.add_argument_group("inputs and output").add_argument)
    options = parser.add_argument_group("how the video is generated")
    _add_options(options.add_argument)
    options.add_argument("--noise", choices=["upstream"], help="use the public implementation's noise for the seed")
    add = parser.add_argument_group("how it runs").add_argument
    add(
        "--provider", default=AUTO, metavar="NAME",
        help=f"runs the engines: {', '.join(names)}, or {AUTO}, the best one available (default: {AUTO})",
    )  # fmt: skip
    add(
        "--device", metavar="NAME",
        help=f"device of a provider that has several ({several}): {', '.join(device_names())} (default: the first)",
    )  # fmt: skip
    add(
        "--precision", choices=list(PRECISIONS),
        help=f"precision that the engines compute in; the bundle's, or any that the machine has with {reducing} "
        f"(default: fp32 with {reducing}, else the bundle's)",
    )  # fmt: skip
    add(
        "--rebuild", choices=REBUILD, default=REBUILD[0],
        help="compile a bundle's plans again if damaged or for another GPU or TensorRT version (default: auto)",
    )  # fmt: skip
    add(
        "--window-order", type=_window_order, choices=WINDOW_ORDERS, default=WAVEFRONT,
        help="order in which context windows are denoised: as a wavefront (default), or step by step over the whole "
        "video; frames are the same",
    )  # fmt: skip
    add(
        "--threads", type=int, metavar="N",
        help="CPU threads, limited to the CPUs that this process may use (default: one per core)",
    )  # fmt: skip
    add(
        "--share-weights", action="store_true",
        help="on the CPU, keep one copy of the weights for both denoisers: less memory if both are needed, but slower",
    )  # fmt: skip
    add("--quiet", action="store_true", help="print only warnings, notes on faulty inputs, and errors")


def _add_files(add: Callable[..., object]) -> None:
    add("--engines", metavar="DIR", help=_BUNDLE)
    add("--image", metavar="FILE", required=True, help="photo of the face")
    add("--audio", metavar="FILE", required=True, help="speech: a sound file, or a video for its sound")
    add("--output", metavar="FILE", required=True, help=".mp4, .mov or .mkv; appears when it is complete")
    add(
        "--keypoints", metavar="FILE", type=lambda name: name or None,  # upstream passes "" for none
        help=".pth, .npy or .npz in pixels of the bundle's picture, or a driving video, in which faces are detected",
    )  # fmt: skip
    add(
        "--keypoints-size", metavar="WxH", type=_size,
        help="size in pixels of the pictures that a file of keypoints was made from (default: the bundle's)",
    )  # fmt: skip
    add(
        "--depth", metavar="FILE",
        help="depth of the head for bundles with a guider of depth: .npy or .npz, or a video of depth",
    )  # fmt: skip
    add(
        "--image-keypoints", metavar="X,Y", nargs=3, type=_point,
        help="left eye, right eye and nose in pixels of the photo, in place of face detection",
    )  # fmt: skip
    add("--crop", choices=CROP_MODES, default="face", help="crop the photo to the face, or stretch it (default: face)")
    add(
        "--retarget", choices=RETARGET_MODES,
        help="how keypoints are fitted to the photo's face (default: no_retarget with keypoints, fix_face without)",
    )  # fmt: skip


def _add_options(add: Callable[..., object]) -> None:
    """Add a flag for each option of GenerationConfig, with its type, default and help.

    Options that a bundle can recommend default to None.
    """
    sentences = {option.name: option_help(option.name) for option in fields(GenerationConfig)}
    for option in fields(Settings):
        flag, recommendable = option.name.replace("_", "-"), option.name in RECOMMENDABLE
        default = None if recommendable else option.default
        suffix = ", unless preset or bundle say otherwise" if recommendable else ""
        text = sentences[option.name][0].lower() + sentences[option.name][1:].rstrip(".").replace("%", "%%")
        text += f" (default: {_usual(option.default)}{suffix})"
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
    """Return a default as it is written on the command line."""
    if isinstance(default, bool):
        return "on" if default else "off"
    return ",".join(f"{bound:g}" for bound in default) if isinstance(default, tuple) else str(default).lower()


def _add_inspect(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect", allow_abbrev=False, **_EPILOG, help="list what a bundle of engines contains"
    )
    parser.add_argument("bundle", metavar="DIR", nargs="?", help=_BUNDLE)
    parser.add_argument("--verify", action="store_true", help="read every file and compare it with its sha256")
    parser.add_argument("--json", action="store_true", help="print the manifest")


def _add_compile(commands: Any) -> None:
    text = "compile a bundle's plans for this machine's GPU and TensorRT, if it lacks them"
    parser = commands.add_parser("compile", allow_abbrev=False, **_EPILOG, help=text)
    parser.add_argument("bundle", metavar="DIR", help="bundle that python -m export.build wrote, for TensorRT")


def _add_tune(commands: Any) -> None:
    text = "measure which provider runs a bundle fastest on this CPU, at equal precision, for --provider auto"
    parser = commands.add_parser("tune", allow_abbrev=False, **_EPILOG, help=text)
    parser.add_argument("--engines", metavar="DIR", help=_BUNDLE)
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads, as of generate; the result holds for them"
    )
    parser.add_argument("--force", action="store_true", help="measure although other programs keep the CPUs busy")
    parser.add_argument("--forget", action="store_true", help="remove the bundle's tuning results on this CPU")


def _add_cache(commands: Any) -> None:
    text = "show the entries of the user's cache, or remove them"
    parser = commands.add_parser("cache", allow_abbrev=False, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("--clear", action="store_true", help="remove all entries; later processes make them again")


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


# For each type of an option: the function that parses it, and the name of its value.
_KINDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "int": (int, "N"), "float": (float, "X"), "tuple[float, float]": (_interval, "LOW,HIGH"),
}  # fmt: skip
