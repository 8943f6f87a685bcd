"""Bundles on disk without real engines, for tests of the checks before engines are loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.factories import model_config
from tests.support.onnx_graphs import WEIGHTS, external, one_node_model
from vexpress_rt.bundle.compilation import Compilation
from vexpress_rt.bundle.engine_spec import FACE_DETECTOR, TensorSpec, VideoShape, engine_specs
from vexpress_rt.bundle.manifest import MANIFEST, EngineEntry, FileEntry, Manifest, write_manifest
from vexpress_rt.bundle.training_record import TrainedFileEntry, TrainingRecord

CONTENTS = {
    "vae_encoder.onnx": one_node_model(name="the encoder").SerializeToString(),
    "denoiser.onnx": one_node_model(external("weights", "denoiser.weights"), name="denoiser").SerializeToString(),
    "denoiser.weights": WEIGHTS,
    "det_10g.onnx": one_node_model(name="the detector").SerializeToString(),
}
_FACTS = {"library": "tensorrt", "version": "11.4.0", "options": "{}"}
_COMPILED = Compilation(gpu="NVIDIA H100", capability="9.0", **_FACTS)
ENCODER_PLAN, DENOISER_PLAN = map(_COMPILED.plan_name, ("vae_encoder", "denoiser"))
PLANS = {ENCODER_PLAN: b"a plan", DENOISER_PLAN: b"another plan"}
SHAPE = VideoShape(64, 128, 8)


def make_manifest(**changes: Any) -> Manifest:
    """Return the manifest of a bundle with two engines, one with external weights, and a face detector."""
    specs = engine_specs(model_config(), SHAPE)

    def entry(name: str, *data: str) -> EngineEntry:
        spec = specs[name]
        return EngineEntry(
            file=f"{name}.onnx", data=data, weights_sha256="1" * 64, fingerprint="00ff", inputs=spec.inputs,
            outputs=spec.outputs,
        )  # fmt: skip

    detector = EngineEntry(
        file="det_10g.onnx",
        weights_sha256="2" * 64,
        fingerprint="1234",
        inputs=(TensorSpec("input.1", ("1", "3", "?", "?"), (1, 3, None, None), "float32"),),
        outputs=(TensorSpec("448", ("12800", "1"), (12800, 1), "float32"),),
    )
    values = {
        "package": "0.1.0",
        "versions": {"torch": "2.13.0", "python": "3.11.7"},
        "target": "onnxruntime",
        "precision": "fp32",
        "shape": SHAPE,
        "model": model_config(),
        "engines": {
            "vae_encoder": entry("vae_encoder"),
            "denoiser": entry("denoiser", "denoiser.weights"),
            FACE_DETECTOR: detector,
        },
        "files": entries(CONTENTS),
        "recommended": {"steps": 10, "fps": 12.5, "median_filter": False},
        "parity": {"denoiser": 3e-6, "vae_encoder": {"latent": 1e-6}},
        "training": TrainingRecord({"motion_module": TrainedFileEntry("mine/a.pth", "3" * 64)}, "mine", 2, 7),
    }
    return Manifest(**(values | changes))


def entries(contents: dict[str, bytes]) -> dict[str, FileEntry]:
    return {name: FileEntry(len(content), hashlib.sha256(content).hexdigest()) for name, content in contents.items()}


def make_compiled(**changes: Any) -> Manifest:
    """Return the manifest of `make_manifest` with plans of two engines for one GPU, and none for another."""
    plans = {name.partition(".")[0]: name for name in PLANS}
    compiled = (
        Compilation(gpu="NVIDIA A100", capability="8.0", **_FACTS),
        dataclasses.replace(_COMPILED, plans=plans),
    )
    values = {"target": "tensorrt", "files": entries(CONTENTS | PLANS), "compiled": compiled}
    return make_manifest(**(values | changes))


def make_folder(path: Path, manifest: Manifest | None = None) -> Path:
    """Write a folder with the files of a manifest (default: `make_manifest`)."""
    manifest = make_manifest() if manifest is None else manifest
    path.mkdir()
    for name in manifest.files.keys() - manifest.absent:
        (path / name).write_bytes((CONTENTS | PLANS)[name])
    write_manifest(path, manifest)
    return path


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON of a manifest in place."""
    data = json.loads((folder / MANIFEST).read_text())
    change(data)
    (folder / MANIFEST).write_text(json.dumps(data))
