"""A bundle on disk without any engine in it, for tests of what is checked before engines are loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.factories import model_config
from vexpress_rt.bundle import EngineEntry, FileEntry, Manifest, write_manifest
from vexpress_rt.manifest import MANIFEST
from vexpress_rt.specs import FACE_DETECTOR, TensorSpec, VideoShape, engine_specs

CONTENTS = {
    "vae_encoder.onnx": b"the encoder",
    "denoiser.onnx": b"the denoiser",
    "denoiser.weights": b"weights of the denoiser" * 100,
    "det_10g.onnx": b"the detector",
}
SHAPE = VideoShape(64, 128, 8)


def make_manifest(**changes: Any) -> Manifest:
    """Of a bundle with two engines, one with its weights beside it, and a face detector."""
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
        "files": {name: FileEntry(len(c), hashlib.sha256(c).hexdigest()) for name, c in CONTENTS.items()},
        "parity": {"denoiser": 3e-6, "vae_encoder": {"latent": 1e-6}},
    }
    return Manifest(**(values | changes))


def make_folder(path: Path) -> Path:
    path.mkdir()
    for name, content in CONTENTS.items():
        (path / name).write_bytes(content)
    write_manifest(path, make_manifest())
    return path


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest's JSON in place."""
    data = json.loads((folder / MANIFEST).read_text())
    change(data)
    (folder / MANIFEST).write_text(json.dumps(data))
