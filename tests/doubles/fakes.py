"""Stand-in engines without weights: they have the specifications of real engines and compute something simple.

`FakeBackend` replaces the backend of a `Generator`; everything else is real. Outputs of the engines depend on all of
their inputs, so that any wrong input changes the frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.factories import model_config
from tests.support.onnx_graphs import one_node_model
from vexpress_rt.backends.base import Array, Tensor
from vexpress_rt.bundle.engine_spec import (
    ENGINE_NAMES,
    FACE_DETECTOR,
    EngineSpec,
    ModelConfig,
    TensorSpec,
    VideoShape,
    engine_specs,
)
from vexpress_rt.bundle.manifest import EngineEntry, FileEntry, Manifest, write_manifest
from vexpress_rt.errors import BackendMissingError

Inputs = Mapping[str, Array]
Outputs = dict[str, Array]

# One level and one block, so that there are few reference features and a call costs next to nothing.
SMALL = model_config(block_out_channels=(8,), down_attention=(True,), up_attention=(False,), cross_attention_dim=12)
SHAPE = VideoShape(64, 64, 8)
SPOT_RADIUS = 6  # pixels, of the faces that the stand-in detector finds
SPOT = np.array([[-12, -6], [12, -6], [0, 9], [-8, 18], [8, 18]], np.float32)  # their five points
DETECTOR_SPEC = EngineSpec(
    FACE_DETECTOR,
    (TensorSpec("input.1", ("1", "3", "H", "W"), (1, 3, 512, 512), "float32"),),
    tuple(
        TensorSpec(f"{kind}_{stride}", ("N", str(width)), (2 * (512 // stride) ** 2, width), "float32")
        for kind, width in (("score", 1), ("box", 4), ("keypoints", 10))
        for stride in (8, 16, 32)
    ),
)


def fake_specs(model: ModelConfig = SMALL, shape: VideoShape = SHAPE) -> dict[str, EngineSpec]:
    """Return the specifications of all engines of a bundle, including the face detector."""
    return {**engine_specs(model, shape), FACE_DETECTOR: DETECTOR_SPEC}


class FakeDeviceTensor:
    """A `DeviceTensor` that NumPy cannot convert."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = str(array.dtype)
        self.closed = False

    def __array__(self, *args: Any, **kwargs: Any) -> Array:
        raise AssertionError("NumPy was given a tensor that is on a device")

    def numpy(self) -> Array:
        return self.array.copy()

    def close(self) -> None:
        self.closed = True


class FakeEngine:
    """An `Engine` that checks and records its inputs and returns the outputs of `compute`.

    Args:
        spec: Specification of inputs and outputs.
        compute: (spec, inputs) -> outputs; None for zeros of the right shapes.
        on_device: Whether it computes on a device, so that `keep_on_device` returns FakeDeviceTensors.

    Attributes:
        calls: Copies of the inputs of every call.
        kept_inputs: For every call, the names of inputs that were on the device already.
    """

    def __init__(
        self,
        spec: EngineSpec,
        compute: Callable[[EngineSpec, Inputs], Outputs] | None = None,
        *,
        on_device: bool = False,
    ) -> None:
        self.spec = spec
        self.on_device = on_device
        self.calls: list[Outputs] = []
        self.kept_inputs: list[set[str]] = []
        self.closed = False
        self._compute = compute or _zeros

    def run(self, inputs: Mapping[str, Tensor], *, keep_on_device: bool = False) -> dict[str, Any]:
        assert not self.closed
        there = {name: tensor.array for name, tensor in inputs.items() if isinstance(tensor, FakeDeviceTensor)}
        assert self.on_device or not there
        arrays = {**inputs, **there}
        _check(self.spec.inputs, arrays)
        self.calls.append({name: np.array(array) for name, array in arrays.items()})
        self.kept_inputs.append(set(there))
        outputs = self._compute(self.spec, arrays)
        _check(self.spec.outputs, outputs)
        if self.on_device and keep_on_device:
            return {name: FakeDeviceTensor(array) for name, array in outputs.items()}
        return outputs

    def run_positional(self, array: Array) -> list[Array]:
        (only,) = self.spec.inputs
        return list(self.run({only.name: array}).values())

    def close(self) -> None:
        self.closed = True


def _zeros(spec: EngineSpec, inputs: Inputs) -> Outputs:
    return {t.name: np.zeros([7 if size is None else size for size in t.shape], t.dtype) for t in spec.outputs}


def _check(expected: tuple[TensorSpec, ...], given: Inputs) -> None:
    assert set(given) == {tensor.name for tensor in expected}
    for tensor in expected:
        array = given[tensor.name]
        assert str(array.dtype) == tensor.dtype, tensor.describe()
        assert array.ndim == len(tensor.shape), tensor.describe()
        for found, size in zip(array.shape, tensor.shape, strict=True):
            assert size in (None, found), tensor.describe()


class FakeBackend:
    """A stand-in for the engine modules of `vexpress_rt.backends.onnxruntime`, for the CPU only.

    Attributes:
        on_device: Whether engines compute on a device.
        engines: The engine loaded last, by name.
        loads: Names of loaded engines, in order.
        threads: Threads of the last load.
        sharing: Names of engines that share weights.
        broken: Exceptions to raise when engines are loaded, by name.
    """

    def __init__(self) -> None:
        self.on_device = False
        self.engines: dict[str, FakeEngine] = {}
        self.loads: list[str] = []
        self.threads: int | None = None
        self.sharing: set[str] = set()
        self.broken: dict[str, Exception] = {}

    def load(
        self, path: Path, spec: EngineSpec | None, *, threads: int | None = None, share_weights: bool = False
    ) -> FakeEngine:
        assert path.is_file()
        spec = spec or DETECTOR_SPEC
        self.loads.append(spec.name)
        self.threads = threads
        self.sharing |= {spec.name} if share_weights else set()
        if spec.name in self.broken:
            raise self.broken[spec.name]
        self.engines[spec.name] = FakeEngine(spec, COMPUTE[spec.name], on_device=self.on_device)
        return self.engines[spec.name]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace the engine modules of ONNX Runtime."""
        for module in ("engine", "cuda_engine"):
            monkeypatch.setattr(f"vexpress_rt.backends.onnxruntime.provider.{module}", self)

    def check_installed(self) -> None:
        raise BackendMissingError("the fakes run on the CPU alone")

    def version(self) -> str:
        return "0.0"

    def calls(self, name: str) -> list[Outputs]:
        """Return the inputs of all calls of an engine so far."""
        return self.engines[name].calls if name in self.engines else []


def write_bundle(
    folder: Path,
    engines: Iterable[str] = (*ENGINE_NAMES, FACE_DETECTOR),
    model: ModelConfig = SMALL,
    shape: VideoShape = SHAPE,
) -> Path:
    """Write a bundle with a valid manifest and hashes, whose engine files hold a trivial graph."""
    folder.mkdir()
    specs = fake_specs(model, shape)
    entries, files = {}, {}
    for name in engines:
        content = one_node_model(name=f"{name} {shape}").SerializeToString()
        (folder / f"{name}.onnx").write_bytes(content)
        files[f"{name}.onnx"] = FileEntry(len(content), hashlib.sha256(content).hexdigest())
        spec = specs[name]
        entries[name] = EngineEntry(
            file=f"{name}.onnx", weights_sha256="0" * 64, fingerprint="0", inputs=spec.inputs, outputs=spec.outputs
        )
    manifest = Manifest(
        package="0", versions={}, target="onnxruntime", precision="fp32", shape=shape, model=model, engines=entries,
        files=files,
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder


def red_spots(image: Array, *centres: tuple[float, float]) -> Array:
    """Return `image` (H, W, 3) uint8 with a spot that the stand-in detector finds as a face at each centre (x, y)."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    image = image.copy()
    for x, y in centres:
        image[np.hypot(columns - x, rows - y) < SPOT_RADIUS] = (230, 30, 30)
    return image


def _encode_image(spec: EngineSpec, inputs: Inputs) -> Outputs:
    _, channels, h, w = spec.outputs[0].shape
    image = inputs["image"]
    cells = image.reshape(h, image.shape[0] // h, w, image.shape[1] // w, 3).mean(axis=(1, 3)) / 255  # (h, w, 3)
    latent = np.concatenate([cells, cells.mean(axis=2, keepdims=True)], axis=2).transpose(2, 0, 1)[None, :channels]
    return {"latent": latent.astype(np.float32)}


def _refer(spec: EngineSpec, inputs: Inputs) -> Outputs:
    brightness = np.abs(inputs["latent"]).mean()
    return {t.name: np.full(t.shape, brightness * (1 + i) / 10, t.dtype) for i, t in enumerate(spec.outputs)}


def _encode_audio(spec: EngineSpec, inputs: Inputs) -> Outputs:
    samples = inputs["samples"][0]
    pieces = np.lib.stride_tricks.sliding_window_view(samples, 400)[::320]  # the convolutions' field and stride
    loudness = np.array([np.abs(piece).mean() for piece in pieces], np.float32)
    return {"features": np.repeat(loudness[None, :, None], spec.outputs[0].shape[2] or 1, axis=2)}


def _project(spec: EngineSpec, inputs: Inputs) -> Outputs:
    loudness = inputs["feature_rows"].mean(axis=(1, 2)).reshape(-1, 1, 1)
    return {"audio_tokens": np.broadcast_to(loudness, spec.outputs[0].shape).astype(spec.outputs[0].dtype)}


def _guide(spec: EngineSpec, inputs: Inputs) -> Outputs:
    frames, channels, h, w = spec.outputs[0].shape
    pictures = inputs["drawings"]
    cells = pictures.reshape(frames, h, pictures.shape[1] // h, w, -1).mean(axis=(2, 4)) / 255  # (F, h, w)
    return {"pose_feature": np.repeat(cells[:, None], channels, axis=1).astype(spec.outputs[0].dtype)}


def predict(spec: EngineSpec, inputs: Inputs) -> Outputs:
    """Return predictions that depend on neighbouring frames, position, timestep, weights and conditions."""
    x = inputs["latents"]
    place = np.arange(len(x), dtype=np.float32).reshape(-1, 1, 1, 1) / 7
    heard = inputs["audio_tokens"].mean(axis=(1, 2), dtype=np.float32).reshape(-1, 1, 1, 1)
    posed = inputs["pose_feature"].mean(axis=1, keepdims=True, dtype=np.float32)
    seen = sum(inputs[name].mean(dtype=np.float32) for name in sorted(inputs) if name.startswith("reference_key"))
    beside = np.roll(x, 1, axis=0) - np.roll(x, -1, axis=0)
    alone = np.tanh(x + np.float32(0.3) * beside + place) + inputs["timestep"] / np.float32(1000)
    full = alone + inputs["audio_attention_weight"] * heard + posed + inputs["reference_attention_weight"] * seen
    both = {"unconditional": alone.astype(np.float32), "conditional": full.astype(np.float32)}
    return {tensor.name: both[tensor.name] for tensor in spec.outputs}


def _decode(spec: EngineSpec, inputs: Inputs) -> Outputs:
    height, width, _ = spec.outputs[0].shape
    latent = inputs["latent"][0, :3].transpose(1, 2, 0)  # (h, w, 3)
    grey = (128 + 127 * np.tanh(latent / 8)).astype(np.uint8)
    return {"frame": grey.repeat(height // len(grey), axis=0).repeat(width // grey.shape[1], axis=1)}


def _find_spots(spec: EngineSpec, inputs: Inputs) -> Outputs:
    """Return SCRFD's nine arrays with one anchor for each red spot."""
    outputs = _zeros(spec, inputs)
    red = ((inputs["input.1"][0, 0] - inputs["input.1"][0, 1]) > 100 / 128).astype(np.uint8)
    while red.any():
        first = np.argwhere(red)[0]
        near = np.argwhere(red) - first
        spot = first + near[np.abs(near).max(axis=1) <= 60]
        red[tuple(spot.T)] = 0
        y, x = spot.mean(axis=0)
        radius = np.sqrt(len(spot) / np.pi)
        cell = int(y) // 8 * 64 + int(x) // 8
        offset = np.array([x, y]) - np.array([cell % 64, cell // 64]) * 8
        outputs["score_8"][2 * cell] = 0.9
        outputs["box_8"][2 * cell] = np.concatenate([2 * radius - offset, 2 * radius + offset]) / 8
        outputs["keypoints_8"][2 * cell] = (SPOT * radius / SPOT_RADIUS + offset).reshape(-1) / 8
    return outputs


COMPUTE: dict[str, Callable[[EngineSpec, Inputs], Outputs]] = {
    "vae_encoder": _encode_image,
    "reference_net": _refer,
    "audio_encoder": _encode_audio,
    "audio_projection": _project,
    "pose_guider": _guide,
    "denoiser": predict,
    "denoiser_cond": predict,
    "vae_decoder": _decode,
    FACE_DETECTOR: _find_spots,
}
