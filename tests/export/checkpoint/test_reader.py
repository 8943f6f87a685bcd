"""Reading a checkpoint directory: strict about every tensor, patient with every known layout, executing nothing."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from export.checkpoint.presets import FULL
from export.checkpoint.reader import Checkpoint
from export.checkpoint.tensors import load_strict, read_tensors
from export.checkpoint.writer import component_shapes
from export.errors import CheckpointError
from export.networks.reference_net import is_unused
from tests.support.micro import MICRO

UNET, MOTION = "v-express/denoising_unet.bin", "v-express/motion_module.bin"
GUIDER, REFERENCE = "v-express/v_kps_guider.bin", "v-express/reference_net.bin"
VAE = "sd-vae-ft-mse/diffusion_pytorch_model.safetensors"
AUDIO = "wav2vec2-base-960h/pytorch_model.bin"
Tensors = dict[str, Tensor]


@pytest.fixture
def weights(micro_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint directory to be changed at will."""
    return Path(shutil.copytree(micro_checkpoint, tmp_path / "weights"))


def read(path: Path) -> Tensors:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def write(path: Path, tensors: Any) -> None:
    path.unlink(missing_ok=True)  # tensors may still be mapped from it
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    else:
        torch.save(tensors, path)


def state(folder: Path, network: str) -> Tensors:
    """All tensors of a network, as its module has them after loading."""
    return {name: value.clone() for name, value in Checkpoint(folder).network(network).state_dict().items()}


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert set(found) == set(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)


def one_bias(tensors: Tensors) -> str:
    """A tensor that is needed; of the VAE, one of the decoder."""
    other = ("encoder.mid", "encoder.conv", "encoder.down", "quant_conv")
    needed = (name for name in tensors if ".attn2.to_" not in name and not name.startswith(other))
    return next(name for name in needed if name.endswith(".bias"))


NETWORKS = {
    REFERENCE: "reference_net",
    UNET: "denoising_unet",
    MOTION: "denoising_unet",
    GUIDER: "v_kps_guider",
    "v-express/audio_projection.bin": "audio_projection",
    VAE: "vae_decoder",
    AUDIO: "audio_encoder",
}


@pytest.mark.parametrize("file", NETWORKS)
def test_a_missing_tensor_is_named_with_the_file(file: str, weights: Path) -> None:
    tensors = read(weights / file)
    name = one_bias(tensors)
    del tensors[name]
    write(weights / file, tensors)
    with pytest.raises(CheckpointError, match=rf"{Path(file).name}.* does not fit .*: 1 missing: {name}$"):
        Checkpoint(weights).network(NETWORKS[file])


@pytest.mark.parametrize("file", NETWORKS)
def test_an_unexpected_tensor_is_named_with_the_file(file: str, weights: Path) -> None:
    write(weights / file, read(weights / file) | {"decoder.surplus": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=rf"{Path(file).name}.* 1 unexpected: decoder\.surplus$"):
        Checkpoint(weights).network(NETWORKS[file])


@pytest.mark.parametrize("file", NETWORKS)
def test_a_misshapen_tensor_is_named_with_both_shapes(file: str, weights: Path) -> None:
    tensors = read(weights / file)
    name = one_bias(tensors)
    write(weights / file, tensors | {name: torch.zeros(77)})
    with pytest.raises(
        CheckpointError, match=rf"{Path(file).name}.* 1 misshapen: {name} is \(77,\), expected \(\d+,\)"
    ):
        Checkpoint(weights).network(NETWORKS[file])


def test_a_tensor_that_is_no_array_of_fractions_is_named(weights: Path) -> None:
    tensors = read(weights / GUIDER)
    changes = {"conv_in.bias": torch.zeros(3, dtype=torch.int64), "conv_out.bias": torch.zeros(8).to_sparse()}
    write(weights / GUIDER, tensors | changes)
    with pytest.raises(
        CheckpointError, match=r"2 of another kind: conv_in.bias is torch.int64 .*, conv_out.bias is .*sparse"
    ):
        Checkpoint(weights).network("v_kps_guider")


def test_many_complaints_are_counted_and_the_first_are_named() -> None:
    module = torch.nn.Linear(2, 2, device="meta")
    with pytest.raises(CheckpointError) as error:
        load_strict(module, {f"x{i:02}": torch.zeros(1) for i in range(20)}, "FILE")
    names = ", ".join(f"x{i:02}" for i in range(8))
    assert (
        str(error.value) == f"FILE does not fit the configuration: 2 missing: weight, bias; 20 unexpected: {names}, ..."
    )


class Bomb:
    """An object that runs a command when it is unpickled."""

    def __init__(self, victim: Path):
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.victim,)


BROKEN: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-500]),
    "text": lambda path: path.write_text("<!doctype html> not found"),
    "no dictionary": lambda path: torch.save([torch.zeros(1)], path),
    "numbers by name": lambda path: torch.save({"conv_in.weight": 3}, path),
    "tensors by number": lambda path: torch.save({1: torch.zeros(1)}, path),
    "a program": lambda path: path.write_bytes(pickle.dumps(Bomb(path.with_name("victim")))),
    "a program in an archive": lambda path: torch.save({"x": Bomb(path.with_name("victim"))}, path),
    "a module": lambda path: torch.save(torch.nn.Linear(1, 1), path),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_file_that_holds_anything_else_is_refused_and_runs_nothing(case: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    write(path, {"conv_in.weight": torch.zeros(100)})
    BROKEN[case](path)
    with pytest.raises(CheckpointError, match=rf"weights\{suffix} (cannot be read as tensors \(.+\): fetch|holds )"):
        read_tensors(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@settings(max_examples=60)
@given(st.sampled_from(["new", "old", "safe"]), st.integers(0), st.binary(min_size=1, max_size=4))
def test_damaged_bytes_raise_nothing_but_our_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, place: int, damage: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged-{kind}{'.safetensors' if kind == 'safe' else '.bin'}"
    tensors = {"a": torch.arange(4.0), "b": torch.zeros(2, 3, dtype=torch.float16)}
    if kind == "old":
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    else:
        write(path, tensors)
    data = bytearray(path.read_bytes())
    data[place % len(data) : place % len(data) + len(damage)] = damage
    path.write_bytes(data)
    try:
        found = read_tensors(path)
    except CheckpointError:
        return
    assert all(isinstance(name, str) and isinstance(found[name], Tensor) for name in found)


def test_files_of_old_and_new_formats_give_the_same_network(weights: Path) -> None:
    expected = state(weights, "v_kps_guider")
    tensors = read(weights / GUIDER)
    torch.save(tensors, weights / GUIDER, _use_new_zipfile_serialization=False)
    assert_same(state(weights, "v_kps_guider"), expected)
    torch.save({"state_dict": {k: torch.nn.Parameter(v) for k, v in tensors.items()}}, weights / GUIDER)
    assert_same(state(weights, "v_kps_guider"), expected)
    save_file(tensors, (weights / GUIDER).with_suffix(".safetensors"))
    (weights / GUIDER).unlink()
    assert_same(state(weights, "v_kps_guider"), expected)


@pytest.mark.parametrize(("dtype", "mapped"), [(torch.float32, True), (torch.float16, False)])
def test_a_file_is_mapped_as_long_as_its_bytes_are_used_as_they_are(
    dtype: torch.dtype, mapped: bool, weights: Path
) -> None:
    """Copies of all tensors, or the pages of a file that is mapped: at full size one of them is 5 GB, both are 8."""
    network = Checkpoint(weights).network("denoising_unet", dtype)
    assert network.training is False
    assert (str(weights / UNET) in Path("/proc/self/maps").read_text()) == mapped


@pytest.mark.parametrize("file", [VAE, AUDIO])
def test_hub_files_may_be_of_either_format(file: str, weights: Path) -> None:
    network = NETWORKS[file]
    expected, tensors = state(weights, network), read(weights / file)
    (weights / file).unlink()
    with pytest.raises(CheckpointError, match=r"has no \S+\.safetensors or \S+\.bin: complete .* or .* synthetic one"):
        Checkpoint(weights).network(network)
    other = (
        VAE.replace(".safetensors", ".bin") if file == VAE else AUDIO.replace("pytorch_model.bin", "model.safetensors")
    )
    write(weights / other, tensors)
    assert_same(state(weights, network), expected)


def test_the_denoiser_is_whole_however_its_two_files_share_it(weights: Path) -> None:
    expected = state(weights, "denoising_unet")
    unet, motion = read(weights / UNET), read(weights / MOTION)
    write(weights / UNET, motion)
    write(weights / MOTION, unet)
    assert_same(state(weights, "denoising_unet"), expected)


def test_a_half_of_the_denoiser_that_is_the_other_one_or_missing_is_named(weights: Path) -> None:
    shutil.copy(weights / UNET, weights / MOTION)
    with pytest.raises(CheckpointError, match=r"motion_module\.bin repeats tensors of denoising_unet\.bin: conv_in"):
        Checkpoint(weights).network("denoising_unet")
    (weights / MOTION).unlink()
    with pytest.raises(CheckpointError, match=r"v-express has no motion_module\.bin or motion_module\.safetensors"):
        Checkpoint(weights).network("denoising_unet")


def test_reference_net_needs_no_tensor_that_no_feature_depends_on(weights: Path) -> None:
    expected, tensors = state(weights, "reference_net"), read(weights / REFERENCE)
    unused = {name for name in tensors if is_unused(name, MICRO.unet)}
    last = "up_blocks.1.attentions.1."
    assert {f"{last}proj_out.weight", f"{last}transformer_blocks.0.norm3.bias", "conv_out.bias"} <= unused
    assert {f"{last}norm.weight", f"{last}transformer_blocks.0.norm2.weight"}.isdisjoint(unused)
    write(weights / REFERENCE, {name: value for name, value in tensors.items() if name not in unused})
    found = state(weights, "reference_net")
    assert_same(
        {k: v for k, v in found.items() if k not in unused}, {k: v for k, v in expected.items() if k not in unused}
    )
    write(weights / REFERENCE, tensors | {"conv_out.bias": torch.zeros(99)})
    with pytest.raises(CheckpointError, match=r"misshapen: conv_out\.bias"):
        Checkpoint(weights).network("reference_net")


def test_the_tensors_that_reference_net_may_lack_are_those_of_the_specification() -> None:
    names = component_shapes(FULL, "reference_net")
    last = "up_blocks.3.attentions.2"
    block = f"{last}.transformer_blocks.0"
    after = (f"{block}.attn2.", f"{block}.norm3.", f"{block}.ff.", f"{last}.proj_out.", "conv_out.")
    for name in names:
        dead = name.startswith(after) or any(f".attn2.{matrix}." in name for matrix in ("to_q", "to_k", "to_v"))
        assert is_unused(name, FULL.unet) == dead, name


OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def with_old_attention(tensors: Tensors, *, convolutions: bool) -> Tensors:
    result = {}
    for name, value in tensors.items():
        for new, old in OLD_ATTENTION.items():
            if f"attentions.0.{new}." in name:
                name = name.replace(new, old)
                value = value[:, :, None, None] if convolutions and value.dim() == 2 else value
        result[name] = value
    return result


@pytest.mark.parametrize("network", ["vae_encoder", "vae_decoder"])
@pytest.mark.parametrize("convolutions", [False, True])
def test_the_autoencoders_old_attention_names_give_the_same_network(
    network: str, convolutions: bool, weights: Path
) -> None:
    expected, tensors = state(weights, network), read(weights / VAE)
    old = with_old_attention(tensors, convolutions=convolutions)
    assert sum(name not in tensors for name in old) == 16
    write(weights / VAE, old)
    assert_same(state(weights, network), expected)


def test_an_attention_that_is_no_1x1_convolution_or_comes_twice_is_named(weights: Path) -> None:
    tensors, name = read(weights / VAE), "decoder.mid_block.attentions.0.query.weight"
    write(weights / VAE, with_old_attention(tensors, convolutions=True) | {name: torch.zeros(8, 8, 3, 3)})
    with pytest.raises(CheckpointError, match=r"to_q\.weight is \(8, 8, 3, 3\), expected \(8, 8\)"):
        Checkpoint(weights).network("vae_decoder")
    write(weights / VAE, tensors | {name: torch.zeros(8, 8)})
    with pytest.raises(CheckpointError, match=r"to_q\.weight twice, under an older and a newer name"):
        Checkpoint(weights).network("vae_decoder")
