"""Errors for a damaged bundle or a missing engine library, raised when a generator uses them."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.doubles.fakes import FakeBackend, write_bundle
from tests.support.error_tree import check
from tests.support.onnx_graphs import one_node_model
from tests.support.scenes import FAST, photo, speech, track
from vexpress_rt import (
    BackendError,
    BackendMissingError,
    BundleDamagedError,
    BundleNotFoundError,
    BundleVersionError,
    Generator,
    VExpressError,
)


def rewrite(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


REBUILD = r"python -m export\.build .*--output"
BUNDLES: dict[str, tuple[type[VExpressError], Callable[[Path], object], tuple[str, ...]]] = {
    "missing": (
        BundleNotFoundError, lambda b: b.rename(b.with_name("elsewhere")),
        ("bundle is not a folder", "expected a bundle of engines", REBUILD),
    ),
    "without a manifest": (
        BundleNotFoundError, lambda b: (b / "manifest.json").unlink(),
        (r"holds no manifest\.json", "expected a bundle of engines", REBUILD),
    ),
    "with a damaged manifest": (
        BundleDamagedError, lambda b: (b / "manifest.json").write_text("{"), ("the manifest is malformed", REBUILD),
    ),
    "of another schema": (
        BundleVersionError, lambda b: rewrite(b, lambda m: m.update(schema=3)),
        ("its schema is 3, newer than this version's 2", "upgrade vexpress-rt", REBUILD),
    ),
    "without a file": (
        BundleDamagedError, lambda b: (b / "denoiser.onnx").unlink(), (r"denoiser\.onnx cannot be found", REBUILD),
    ),
    "with a file cut short": (
        BundleDamagedError, lambda b: (b / "denoiser.onnx").write_bytes(b"1"),
        (r"denoiser\.onnx has 1 bytes", "expected [0-9]+", REBUILD),
    ),
    "with a file of another hash": (
        BundleDamagedError, lambda b: (b / "denoiser.onnx").write_bytes((b / "denoiser.onnx").read_bytes()[::-1]),
        (r"denoiser\.onnx has the sha256 [0-9a-f]{64}", "expected [0-9a-f]{64}", REBUILD),
    ),
    "without an engine": (
        BundleNotFoundError, lambda b: rewrite(b, lambda m: m["engines"].pop("denoiser")),
        ("holds no engine 'denoiser'", "it has vae_encoder", f"{REBUILD}.* --engine denoiser"),
    ),
    "with an engine of another interface": (
        BundleDamagedError, lambda b: rewrite(b, lambda m: m["engines"]["vae_decoder"]["inputs"].pop()),
        ("vae_decoder lacks the input latent: float32", REBUILD),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_that_cannot_be_used_says_why_and_how_to_mend_it(
    tmp_path: Path, backend: FakeBackend, name: str
) -> None:
    kind, damage, texts = BUNDLES[name]
    bundle, output = write_bundle(tmp_path / "bundle"), tmp_path / "output"
    output.mkdir()
    damage(bundle)
    with pytest.raises(VExpressError) as caught, Generator(bundle) as generator:
        generator.generate(photo(), speech(), config=FAST, output=output / "out.mp4")
    check(caught.value, kind, texts)
    assert list(output.iterdir()) == []


# The library behind the engines


def test_without_the_engine_library_the_package_to_install_is_named(
    fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(VExpressError) as caught, Generator(fake_bundle) as generator:
        generator.prepare(photo())
    check(caught.value, BackendMissingError, ("ONNX Runtime, .*, cannot be imported", "pip install onnxruntime"))


def replace_engine(bundle: Path, name: str, model: onnx.ModelProto) -> None:
    """Replace a graph of a bundle, and update the manifest."""
    content = model.SerializeToString()
    (bundle / f"{name}.onnx").write_bytes(content)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(bundle, lambda data: data["files"].update({f"{name}.onnx": entry}))


def test_an_engine_file_that_is_not_a_graph_of_an_engine_is_named(fake_bundle: Path) -> None:
    model = one_node_model()
    model.graph.node[0].op_type = "Loop"
    replace_engine(fake_bundle, "vae_encoder", model)
    with pytest.raises(VExpressError) as caught, Generator(fake_bundle) as generator:
        generator.prepare(photo(), keypoints=track(1)[0])
    check(caught.value, BundleDamagedError, (r"vae_encoder\.onnx is not a graph of an engine: .* operator 'Loop'",))


def test_an_engine_file_that_the_library_refuses_is_named(fake_bundle: Path) -> None:
    model = one_node_model()
    model.graph.node[0].op_type = "Conv"  # without weights
    replace_engine(fake_bundle, "vae_encoder", model)
    with pytest.raises(VExpressError) as caught, Generator(fake_bundle) as generator:
        generator.prepare(photo(), keypoints=track(1)[0])
    check(caught.value, BackendError, (r"engine vae_encoder cannot be loaded from .*vae_encoder\.onnx",))
