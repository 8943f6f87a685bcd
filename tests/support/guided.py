"""Micro models with other guiders than those of the released model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from tests.support.micro import MICRO
from vexpress_rt.bundle.engine_spec import GUIDERS
from vexpress_rt.bundle.manifest import read_manifest, write_manifest

MICRO_DEPTH = replace(MICRO, guiders={**MICRO.guiders, "depth": MICRO.guiders["keypoints"]})


def write_guided(folder: Path, micro_bundle: Path, depth_guider: Path, guiders: tuple[str, ...]) -> Path:
    """Write the bundle of the micro model with other guiders; its other engines do not depend on them.

    Args:
        folder: The folder of the bundle.
        micro_bundle: The bundle of all engines of `MICRO`.
        depth_guider: A bundle of the engine `depth_guider` alone, of `MICRO_DEPTH`.
        guiders: The signals of the guiders.
    """
    shutil.copytree(micro_bundle, folder, copy_function=lambda source, target: Path(target).hardlink_to(source))
    shutil.copyfile(depth_guider / "depth_guider.onnx", folder / "depth_guider.onnx")
    manifest, more = read_manifest(micro_bundle), read_manifest(depth_guider)
    absent = {engine for signal, engine in GUIDERS.items() if signal not in guiders}
    engines = {name: entry for name, entry in {**manifest.engines, **more.engines}.items() if name not in absent}
    files = {name: entry for name, entry in {**manifest.files, **more.files}.items() if Path(name).stem not in absent}
    for engine in absent:
        (folder / f"{engine}.onnx").unlink()
    (folder / "manifest.json").unlink()
    model = replace(manifest.model, guiders=guiders)
    write_manifest(folder, replace(manifest, model=model, engines=engines, files=files))
    return folder
