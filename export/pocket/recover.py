"""Make training states from the weights of a bundle, to continue training when the original states are lost.

    python -m export.pocket.recover --bundle engines/pocket --run build/pocket/run

The weights are those of the bundle, rounded to float16. A few weights that it does not have, and the state of the
optimizer, are initialized.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from export.command import print_progress, run
from export.errors import CheckpointError
from export.pocket.architecture import POCKET
from export.pocket.audio_pretraining import MouthFromSamples
from export.pocket.autoencoder import Autoencoder
from export.pocket.detector import FaceDetector
from export.pocket.model import TrainingModel
from export.pocket.training_loop import mean_state

# Stages that are complete afterwards, by the name of their state: `train --stages encode all decoder` continues.
STAGES: dict[str, type[nn.Module]] = {
    "autoencoder": Autoencoder, "hearing": MouthFromSamples, "detector": FaceDetector, "voice": TrainingModel,
}  # fmt: skip
_FORM = re.compile(
    r"(?P<name>.*?)(?P<form>\.T|\.wide)?(\.narrow)?"
)  # names that `export.onnx.lower` and `export.onnx.graph` give
# Weights that a bundle does not have: of the reference network, the time embedding (its projections are constants in
# the graph), everything after the last feature, and the attention to the text, which is always zero; tables of
# positions; the first queries of the audio projection (a constant in its graph); layers used only in training.
_LOST = re.compile(
    r"^reference_net\.(time_embedding\.|conv_out\.|.*\.attn2\.to_[qkv]\.|.*\.attn2\.to_out\.0\.weight$"
    r"|up_blocks\.3\.attentions\.1\.(proj_out|transformer_blocks\.0\.(attn2|norm3|ff))\.)|\.pe$|^mouth\."
    r"|^audio_projection\.(latents|layers\.0\.0\.(norm2|to_q)\.)"
)
_POSITIONS = "audio_encoder.encoder.pos_conv_embed.conv."
_SHORTEST = 1e-12


def recover(bundle: Path, states: Path) -> None:
    """Write the states of STAGES.

    Args:
        bundle: Directory of the bundle.
        states: Directory of the states.

    Raises:
        CheckpointError: The bundle is damaged or of another model, or a state exists. Nothing is written then.
    """
    for name in STAGES:
        if (path := states / f"{name}.pt").exists():
            raise CheckpointError(f"{path} exists: recover into another folder, or delete it")
    weights = bundle_weights(bundle)
    modules = {name: _filled(network, weights, bundle) for name, network in STAGES.items()}
    states.mkdir(parents=True, exist_ok=True)
    for name, module in modules.items():
        part = states / f".{name}.pt.part"
        torch.save(mean_state(module), part)
        part.replace(states / f"{name}.pt")


def _filled(network: type[nn.Module], weights: dict[str, Tensor], bundle: Path) -> nn.Module:
    """Return a module with the weights of a bundle; CheckpointError if some are missing or misshapen."""
    torch.manual_seed(0)
    module = network()
    own = module.state_dict()
    found = {key: weights[key] for key in own if key in weights}
    wrong = [key for key, value in found.items() if value.shape != own[key].shape]
    wrong += [key for key in own if key not in found and not _LOST.search(key)]
    if wrong:
        raise CheckpointError(
            f"{bundle} is not a complete bundle of the pocket model: {len(wrong)} tensors are missing or of another "
            f"shape, {wrong[0]} among them: build it again with `python -m export.pocket`"
        )
    module.load_state_dict(own | found)
    print_progress(f"{network.__name__}: {len(found)} of {len(own)} tensors")
    return module


def bundle_weights(bundle: Path) -> dict[str, Tensor]:
    """Read the weights in the graphs of a bundle.

    Args:
        bundle: Directory of the bundle.

    Returns:
        The weights by their names in the checkpoint, float32.

    Raises:
        CheckpointError: There are no graphs, or one cannot be read.
    """
    paths = sorted(bundle.glob("*.onnx"))
    if not paths:
        raise CheckpointError(f"{bundle} holds no ONNX files; expected a bundle that was built for onnxruntime")
    weights: dict[str, Tensor] = {}
    for path in paths:
        try:
            weights |= _graph_weights(onnx.load(path).graph)
        except Exception as error:  # the DecodeError of protobuf is not public
            raise CheckpointError(f"{path} cannot be read ({error}): fetch or build the bundle again") from error
    return weights | _joined(weights) | _weight_norm(weights.get(f"{_POSITIONS}weight"))


def _graph_weights(graph: onnx.GraphProto) -> dict[str, Tensor]:
    held = {tensor.name: tensor for tensor in graph.initializer}
    weights = {}
    for name, tensor in held.items():
        form = _FORM.fullmatch(name)
        assert form is not None
        weights[form["name"]] = _formed(tensor, form["form"])
    return weights | _time_vectors(graph, held)


def _formed(tensor: onnx.TensorProto, form: str | None) -> Tensor:
    values = torch.from_numpy(numpy_helper.to_array(tensor).astype(np.float32))
    if form == ".T":
        return values.T.contiguous()
    return values.flatten() if form == ".wide" else values


def _joined(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the projections of GEGLU layers that graphs hold as two halves."""
    whole = [name.removesuffix(".value") for name in weights if name.endswith(".value")]
    return {name: torch.cat([weights[f"{name}.value"], weights[f"{name}.gate"]]) for name in whole}


def _time_vectors(graph: onnx.GraphProto, held: dict[str, onnx.TensorProto]) -> dict[str, Tensor]:
    """Return the reference network's projected time embeddings: its timestep is always 0, so they are constants."""
    made = {node.output[0]: node for node in graph.node}
    found: dict[str, Tensor] = {}
    for node in graph.node:
        constants = [name for name in node.input if name in held]
        before = [made[name] for name in node.input if name in made and made[name].op_type == "Conv"]
        if node.op_type == "Add" and constants and before and before[0].input[1].endswith(".conv1.weight"):
            projection = before[0].input[1].replace("conv1.weight", "time_emb_proj")
            vector = _formed(held[constants[0]], ".wide")
            found[f"{projection}.bias"] = vector
            found[f"{projection}.weight"] = torch.zeros(len(vector), POCKET.unet.time_channels)
    return found


def _weight_norm(weight: Tensor | None) -> dict[str, Tensor]:
    """Split the positional convolution of wav2vec2 into a length for each kernel position and a direction."""
    if weight is None:
        return {}
    stem = f"{_POSITIONS}parametrizations.weight.original"
    return {f"{stem}0": weight.norm(dim=(0, 1), keepdim=True).clamp(min=_SHORTEST), f"{stem}1": weight}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Command-line arguments; None for those of the process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description="Make states of a bundle's weights, to train on from.")
    parser.add_argument("--bundle", type=Path, default=Path("engines/pocket"))
    parser.add_argument("--run", type=Path, default=Path("build/pocket/run"))
    given = parser.parse_args(arguments)
    return run(lambda: recover(given.bundle, given.run))


if __name__ == "__main__":
    raise SystemExit(main())
