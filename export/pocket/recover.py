"""A bundle's weights -> states to train on from, where those that it was made of are gone.

    python -m export.pocket.recover --bundle engines/pocket --run build/pocket/run

Weights come back as the bundle has them, rounded to float16; the few that it does not have, and the state of the
optimiser, begin anew.
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
from export.pocket.autoencoder import Autoencoder
from export.pocket.detector import FaceDetector
from export.pocket.hearing import Listener
from export.pocket.model import Trainee
from export.pocket.runs import mean_state

# Stages that count as done, by the name of their state: `train --stages encode all decoder` goes on from there.
STAGES: dict[str, type[nn.Module]] = {
    "autoencoder": Autoencoder, "hearing": Listener, "detector": FaceDetector, "voice": Trainee,
}  # fmt: skip
_FORM = re.compile(r"(?P<name>.*?)(?P<form>\.T|\.wide)?(\.narrow)?")  # as `export.lower` and `export.graph` name them
# What a bundle does not have, and begins anew: ReferenceNet's time embedding, of which its graph has what it projects
# to, and what follows its last feature; its attention to a text that is always zero; tables that are a formula; the
# first queries of the audio projection, a constant in its graph (training finds others soon); what only training needs.
_LOST = re.compile(
    r"^reference_net\.(time_embedding\.|conv_out\.|.*\.attn2\.to_[qkv]\.|.*\.attn2\.to_out\.0\.weight$"
    r"|up_blocks\.3\.attentions\.1\.(proj_out|transformer_blocks\.0\.(attn2|norm3|ff))\.)|\.pe$|^mouth\."
    r"|^audio_projection\.(latents|layers\.0\.0\.(norm2|to_q)\.)"
)
_POSITIONS = "audio_encoder.encoder.pos_conv_embed.conv."
_SHORTEST = 1e-12


def recover(bundle: Path, states: Path) -> None:
    """Write a state for each of STAGES into the folder `states`.

    Raises CheckpointError for a bundle that is damaged or not of this model, or a state that is there already; nothing
    is written then.
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
    """A module with a bundle's weights. Raises CheckpointError if some are missing or misshapen."""
    torch.manual_seed(0)
    module = network()
    own = module.state_dict()
    found = {key: weights[key] for key in own if key in weights}
    wrong = [key for key, value in found.items() if value.shape != own[key].shape]
    wrong += [key for key in own if key not in found and not _LOST.search(key)]
    if wrong:
        raise CheckpointError(
            f"{bundle} is no whole bundle of the pocket model: {len(wrong)} tensors are missing or of another shape, "
            f"{wrong[0]} among them: build it again with `python -m export.pocket`"
        )
    module.load_state_dict(own | found)
    print_progress(f"{network.__name__}: {len(found)} of {len(own)} tensors")
    return module


def bundle_weights(bundle: Path) -> dict[str, Tensor]:
    """The weights in the graphs of a bundle by their names in the checkpoint, float32."""
    paths = sorted(bundle.glob("*.onnx"))
    if not paths:
        raise CheckpointError(f"{bundle} holds no ONNX files; expected a bundle that was built for onnxruntime")
    weights: dict[str, Tensor] = {}
    for path in paths:
        try:
            weights |= _graph_weights(onnx.load(path).graph)
        except Exception as error:  # protobuf's DecodeError is no public name
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
    """GEGLU's projections, which graphs may hold as two halves."""
    whole = [name.removesuffix(".value") for name in weights if name.endswith(".value")]
    return {name: torch.cat([weights[f"{name}.value"], weights[f"{name}.gate"]]) for name in whole}


def _time_vectors(graph: onnx.GraphProto, held: dict[str, onnx.TensorProto]) -> dict[str, Tensor]:
    """ReferenceNet's projected time embeddings: its timestep is always 0, so the graph holds a constant for each."""
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
    """The two halves of wav2vec2's positional convolution: one length for each place of the kernel, and a direction."""
    if weight is None:
        return {}
    stem = f"{_POSITIONS}parametrizations.weight.original"
    return {f"{stem}0": weight.norm(dim=(0, 1), keepdim=True).clamp(min=_SHORTEST), f"{stem}1": weight}


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make states of a bundle's weights, to train on from.")
    parser.add_argument("--bundle", type=Path, default=Path("engines/pocket"))
    parser.add_argument("--run", type=Path, default=Path("build/pocket/run"))
    given = parser.parse_args(arguments)
    return run(lambda: recover(given.bundle, given.run))


if __name__ == "__main__":
    raise SystemExit(main())
