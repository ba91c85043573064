"""dictionary_learning 0.1: a folder with `ae.pt` and `config.json`.

    load_dictionary(folder, device)

TopK and BatchTopK subtract b_dec from the input, JumpReLU does not. `ae.pt` is a pickle: it is read
with torch's `weights_only`, which knows tensors and nothing else, or not at all.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_dist.coders import Coder, CoderConfig, Form, Kind
from sae_dist.common.files import described_by, write_whole
from sae_dist.common.hooks import layer_of
from sae_dist.interop.published import (
    Published,
    plain_tensors,
    read_settings,
    told_in_one_line,
    unusable,
)

TITLE = "dictionary_learning"
FILES = WEIGHTS, SETTINGS = "ae.pt", "config.json"
LOADING = """\
from dictionary_learning.utils import load_dictionary
from huggingface_hub import snapshot_download

folder = snapshot_download("{repo}") + "/{path}"
ae, config = load_dictionary(folder, device="cpu")
y, acts = ae(x, output_features=True)
"""
_CLASSES = {
    Kind.jumprelu: ("JumpReluAutoEncoder", "JumpReluTrainer"),
    Kind.topk: ("AutoEncoderTopK", "TopKTrainer"),
    Kind.batchtopk: ("BatchTopKSAE", "BatchTopKTrainer"),
}
_KINDS = {dict_class: kind for kind, (dict_class, _) in _CLASSES.items()}
_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
_UNSET = -1.0


def why_not(config: CoderConfig, d_in: int, d_out: int) -> str | None:
    """Why this format cannot hold such a coder; None if it can."""
    is_held = config.form is Form.autoencoder
    return None if is_held else "dictionary_learning has no transcoders"


def write(folder: Path, coder: Coder, about: dict[str, Any]) -> None:
    """Write an autoencoder."""
    kind, k = coder.config.kind, coder.config.k
    tensors = plain_tensors(coder, pre_bias=kind is not Kind.jumprelu)
    if kind is Kind.jumprelu:
        state = {**tensors, "W_enc": tensors["W_enc"].T.contiguous()}
    else:
        threshold_F = tensors.get("threshold", torch.tensor([_UNSET]))
        state = {
            **{theirs: tensors[ours] for ours, theirs in _LINEAR.items()},
            "b_dec": tensors["b_dec"],
            "k": torch.tensor(k, dtype=torch.int32),
            "threshold": threshold_F[0].clone(),
        }
        state["decoder.weight"] = state["decoder.weight"].T.contiguous()
    with (
        described_by(folder / SETTINGS, _settings(coder, about)),
        write_whole(folder / WEIGHTS) as temporary,
        open(temporary, "wb") as file,  # by a name torch would not say why it cannot write
    ):
        torch.save(state, file)


def _settings(coder: Coder, about: dict[str, Any]) -> dict[str, Any]:
    source = about.get("source") or {}
    lm, text = source.get("lm") or {}, source.get("text") or {}
    dict_class, trainer_class = _CLASSES[coder.config.kind]
    trainer: dict[str, Any] = {
        "dict_class": dict_class,
        "trainer_class": trainer_class,
        "activation_dim": coder.d_in,
        "dict_size": coder.config.num_latents,
        "lm_name": lm.get("name"),
        "layer": layer_of(about["site"]),
        "submodule_name": about["site"],
    }
    if coder.config.kind is not Kind.jumprelu:
        trainer["k"] = coder.config.k
    return {"trainer": trainer, "buffer": {"ctx_len": text.get("sequence_length")}}


def read(folder: Path) -> Published:
    """Read an autoencoder with JumpReLU, TopK or BatchTopK.

    Raises:
        UserError: another class, a BatchTopK whose threshold was never set, a pickle of anything
            but tensors, or unusable files.
    """
    settings, path = read_settings(folder / SETTINGS), folder / WEIGHTS
    with told_in_one_line(folder / SETTINGS):
        dict_class = settings["trainer"]["dict_class"]
        site = settings["trainer"].get("submodule_name") or ""
    if dict_class not in _KINDS:
        raise unusable(folder / SETTINGS, f"{dict_class}, which is none of {', '.join(_KINDS)}")
    kind, found, k = _KINDS[dict_class], _state(path), 1
    if kind is Kind.jumprelu:
        with told_in_one_line(path):
            tensors = {**found, "W_enc": found["W_enc"].T}
    else:
        with told_in_one_line(path):
            tensors = {ours: found[theirs] for ours, theirs in _LINEAR.items()}
            tensors |= {"W_dec": tensors["W_dec"].T, "b_dec": found["b_dec"]}
            k, threshold = int(found["k"]), found["threshold"]
        if kind is Kind.batchtopk:
            if float(threshold) < 0:
                raise unusable(path, f"threshold {float(threshold):g}: it was never set")
            tensors["threshold"] = threshold
    return Published(
        kind=kind,
        form=Form.autoencoder,
        tensors={name: tensor.float() for name, tensor in tensors.items()},
        k=k,
        pre_bias=kind is not Kind.jumprelu,
        about={"site": site, "target": site},
    )


def _state(path: Path) -> dict[str, Tensor]:
    with told_in_one_line(path):
        found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise unusable(path, "no dict of tensors")
    return found
