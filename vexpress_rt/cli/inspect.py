"""`vexpress-rt inspect`: list a bundle's properties, and the inputs and outputs of its engines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields

from vexpress_rt.bundle.bundle import Bundle
from vexpress_rt.bundle.compilation import Compilation
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR, TensorSpec
from vexpress_rt.cli.bundle_option import bundle_folder
from vexpress_rt.cli.progress import CommandProgress
from vexpress_rt.cli.terminal import open_stream
from vexpress_rt.utils.signals import GracefulShutdown


def run_inspect(options: argparse.Namespace, shutdown: GracefulShutdown) -> str:
    """Read a bundle, and verify its files with --verify.

    Args:
        options: The parsed flags.
        shutdown: Checked between steps.

    Returns:
        The text to print.

    Raises:
        VExpressError: As `Bundle.open` does.
    """
    bundle = Bundle.open(bundle_folder(options.bundle), recheck=True)
    text = json.dumps(bundle.manifest.to_json(), indent=1) if options.json else describe(bundle)
    if options.verify:
        count = _verify(bundle, shutdown)
        text += "" if options.json else f"\n\nverified: all {count} files have their sha256"
    return text


def _verify(bundle: Bundle, shutdown: GracefulShutdown) -> int:
    """Check the hash of every file and every graph. Returns the number of files."""
    files = sorted(bundle.manifest.files.keys() - bundle.manifest.absent)
    with CommandProgress(open_stream(sys.stderr)) as progress:
        for done, name in enumerate(files, start=1):
            bundle.verify(name)
            shutdown.check()
            progress("verify", done, len(files))
    for name, engine in bundle.manifest.engines.items():
        if engine.file not in bundle.manifest.absent:
            bundle.engine_path(name)  # checks the graph
    return len(files)


def describe(bundle: Bundle) -> str:
    """Return the listing of a bundle, as several lines of text."""
    manifest = bundle.manifest
    shape = manifest.shape
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    size = _sum(bundle, manifest.files.keys() - manifest.absent)
    facts = {
        "bundle": f"{bundle.folder}, identity {bundle.identity}",
        "target": f"{manifest.target}, {manifest.precision}",
        "video": f"{shape.height} x {shape.width} pixels (height x width), windows of {shape.frames} frames",
        "built by": f"vexpress_rt {manifest.package}; {versions or 'versions unknown'}",
    }
    for label, recommended in (("settings", manifest.recommended), ("live", manifest.recommended_live)):
        if recommended:
            options = ", ".join(f"{name} {_setting(value)}" for name, value in recommended.items())
            facts[label] = f"recommended: {options}"
    rows = [(f"{name}:", text) for name, text in facts.items()]
    if manifest.training is not None:
        rows.append(("weights:", manifest.training.describe()))
        entries = manifest.training.files.items()
        rows += [("", f"{network} from {entry.file}, sha256 {entry.sha256[:12]}") for network, entry in entries]
    rows += [row for compilation in manifest.compiled for row in _compilation(bundle, compilation)]
    model = [(f"{field.name}:", _plain(getattr(manifest.model, field.name))) for field in fields(manifest.model)]
    engines = [line for name in manifest.engines for line in _engine(bundle, name)]
    lines = [*_columns(rows), "", "model", *_columns(model, "  ")]
    lines += ["", f"{_count(bundle)}, {_megabytes(size)}", *engines]
    if missing := [name for name in (*bundle.specs, FACE_DETECTOR) if not bundle.has(name)]:
        lines += ["", f"not in this bundle: {', '.join(missing)}"]
    return "\n".join(lines)


def summarize(tensors: Sequence[TensorSpec]) -> Iterator[str]:
    """Yield a line for each tensor.

    Tensors named `group/site`, one for each attention block, share a line if their dims have the same names.
    """
    families: dict[tuple[str, ...], list[TensorSpec]] = {}
    for tensor in tensors:
        key = ("/", tensor.dtype, *tensor.dims) if "/" in tensor.name else ("", tensor.name)
        families.setdefault(key, []).append(tensor)
    for family in families.values():
        if len(family) == 1:
            yield family[0].describe()
            continue
        groups = list(dict.fromkeys(tensor.name.partition("/")[0] for tensor in family))
        names = ", ".join(f"{group}/*" for group in groups)
        sizes = zip(family[0].dims, zip(*(tensor.shape for tensor in family), strict=True), strict=True)
        ranges = ", ".join(f"{dim}={_range(values)}" for dim, values in sizes)
        yield f"{names}: {len(family)} x {family[0].dtype} ({ranges})"


def _compilation(bundle: Bundle, compilation: Compilation) -> Iterator[tuple[str, str]]:
    plans = compilation.plans.values()
    yield "compiled:", f"for {compilation.describe()}: {len(plans)} plans, {_megabytes(_sum(bundle, plans))}"
    yield "", f"options {compilation.options}"


def _engine(bundle: Bundle, name: str) -> Iterator[str]:
    manifest = bundle.manifest
    entry = manifest.engines[name]
    plans = [compilation.plans[name] for compilation in manifest.compiled if name in compilation.plans]
    sizes = {file: _megabytes(_sum(bundle, [file])) for file in (*entry.files, *plans)}
    sizes |= dict.fromkeys(manifest.absent.intersection(entry.files), "not kept")
    files = ", ".join(f"{file} ({size})" for file, size in sizes.items())
    parity = manifest.parity.get(name)
    yield f"  {name}: {files}" + ("" if parity is None else f", differs from PyTorch by {_parity(parity)}")
    for label, tensors in (("in", entry.inputs), ("out", entry.outputs)):
        yield from _columns(((label, line) for line in summarize(tensors)), "    ", 3)


def _sum(bundle: Bundle, files: Iterable[str]) -> int:
    return sum(bundle.manifest.files[file].bytes for file in files)


def _count(bundle: Bundle) -> str:
    count = len(bundle.manifest.engines)
    return "1 engine" if count == 1 else f"{count} engines"


def _columns(rows: Iterable[tuple[str, str]], indent: str = "", width: int | None = None) -> list[str]:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0) if width is None else width
    return [f"{indent}{name:<{width}}  {text}" for name, text in rows]


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _setting(value: object) -> str:
    return " to ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _range(values: Iterable[int | None]) -> str:
    sizes = sorted({-1 if value is None else value for value in values})
    words = ["any" if size < 0 else str(size) for size in (sizes[0], sizes[-1])]
    return words[0] if len(sizes) == 1 else " to ".join(words)


def _parity(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number:.2g}" for name, number in value.items())
    return f"{value:.2g}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
