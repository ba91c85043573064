"""dictionary_learning 0.1: a folder with `ae.pt` and `config.json`.

    load_dictionary(folder, device)

TopK and BatchTopK subtract b_dec from the input, JumpReLU does not. `ae.pt` is a pickle: it is read
with torch's `weights_only`, which knows tensors and nothing else, or not at all.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_dist.coders import BatchTopK, Coder, CoderConfig, FiresBy, Form, JumpReLU, TopK
from sae_dist.common.files import atomic_path, described_by
from sae_dist.common.hooks import layer_of, site_of
from sae_dist.interop.format import Format
from sae_dist.interop.published import (
    ForeignCoder,
    floats,
    plain_tensors,
    read_pickle,
    told_in_one_line,
    transposed,
    unusable,
)
from sae_dist.interop.settings import TEXT, Understood, read_understood

_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
_MATRICES = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Class:
    """What one of its classes computes, from which tensors.

    `names` are its weights, by ours, `beside` its other tensors. Those with ReLU give activations
    as if decoder rows had unit norm, as `load_dictionary` and `output_features` do.
    """

    kind: type[CoderConfig]
    names: dict[str, str]
    beside: Set[str] = frozenset()
    may_lack: Set[str] = frozenset()
    pre_bias: bool = True
    is_relu: bool = False
    is_gated: bool = False

    def is_of(self, found: Set[str]) -> bool:
        """Whether these are its tensors."""
        every = {*self.names.values(), *self.beside}
        return every - self.may_lack <= found <= every


_CLASSES = {
    "AutoEncoder": _Class(kind=JumpReLU, names={**_LINEAR, "b_dec": "bias"}, is_relu=True),
    "AutoEncoderNew": _Class(
        kind=JumpReLU, names={**_LINEAR, "b_dec": "decoder.bias"}, pre_bias=False, is_relu=True
    ),
    "GatedAutoEncoder": _Class(
        kind=JumpReLU,
        names={
            **{name: theirs for name, theirs in _LINEAR.items() if name != "b_enc"},
            "b_dec": "decoder_bias",
            "b_gate": "gate_bias",
            "b_mag": "mag_bias",
            "r_mag": "r_mag",
        },
        is_gated=True,
    ),
    "JumpReluAutoEncoder": _Class(kind=JumpReLU, names=_MATRICES, pre_bias=False),
    "AutoEncoderTopK": _Class(
        kind=TopK,
        names={**_LINEAR, "b_dec": "b_dec"},
        beside={"k", "threshold"},
        may_lack={"k", "threshold"},  # as older ones do
    ),
    "BatchTopKSAE": _Class(
        kind=BatchTopK,
        names={**_LINEAR, "b_dec": "b_dec", "threshold": "threshold"},
        beside={"k"},
    ),
    "MatryoshkaBatchTopKSAE": _Class(kind=BatchTopK, names=_MATRICES, beside={"k", "group_sizes"}),
}
_WRITTEN = {
    FiresBy.thresholds: ("JumpReluAutoEncoder", "JumpReluTrainer"),
    FiresBy.rank: ("AutoEncoderTopK", "TopKTrainer"),
    FiresBy.threshold: ("BatchTopKSAE", "BatchTopKTrainer"),
}
_UNDERSTOOD: Understood = {
    "trainer": (
        {
            "dict_class": tuple(_CLASSES),
            **dict.fromkeys(("activation_dim", "dict_size", "k"), (int,)),
            "submodule_name": (TEXT, None),
        },
    ),
}
_NO_BEARING = frozenset(
    """
    anneal_end anneal_start auxk_alpha bandwidth buffer decay_start device group_fractions
    group_sizes group_weights l1_penalty layer lm_name lr n_sparsity_updates p_end p_start
    resample_steps seed sparsity_function sparsity_penalty sparsity_queue_length
    sparsity_warmup_steps steps target_l0 threshold_beta threshold_start_step top_k_aux
    trainer_class wandb_name warmup_steps
    """.split()
)
_UNSET = -1.0


class DictionaryLearning(Format):
    """`ae.pt` and `config.json`."""

    name = title = "dictionary_learning"
    files = weights, settings = "ae.pt", "config.json"
    is_pickle = True
    loading = """\
from dictionary_learning.utils import load_dictionary
from huggingface_hub import snapshot_download

folder = snapshot_download("{repo}") + "/{path}"
ae, config = load_dictionary(folder, device="cpu")
y, acts = ae(x, output_features=True)
"""
    forms = (Form.autoencoder,)
    fires_by = tuple(_WRITTEN)

    def unsupported_reason(
        self, config: CoderConfig, d_in: int, d_out: int, about: dict[str, Any]
    ) -> str | None:
        k = config.aim.get("k")
        if config.fires_by is FiresBy.threshold and (k is None or k != int(k)):
            return f"dictionary_learning wants a whole k beside one threshold for all, not {k}"
        return super().unsupported_reason(config, d_in, d_out, about)

    def write(self, folder: Path, coder: Coder, about: dict[str, Any]) -> None:
        """Write an autoencoder.

        A pickle has the strides of its tensors, so that one is turned without a copy of it.
        """
        has_thresholds = coder.config.fires_by is FiresBy.thresholds
        tensors = plain_tensors(coder, pre_bias=not has_thresholds)
        if has_thresholds:
            state = {**tensors, "W_enc": tensors["W_enc"].T}
        else:
            threshold_F = tensors.get("threshold", torch.tensor([_UNSET]))
            state = {
                **{theirs: tensors[ours] for ours, theirs in _LINEAR.items()},
                "b_dec": tensors["b_dec"],
                "k": torch.tensor(coder.config.aim["k"], dtype=torch.int32),
                "threshold": threshold_F[0].clone(),
            }
            state["decoder.weight"] = state["decoder.weight"].T
        with (
            described_by(folder / self.settings, _settings(coder, about)),
            atomic_path(folder / self.weights) as temporary,
            open(temporary, "wb") as file,  # by a name torch would not say why it cannot write
        ):
            torch.save(state, file)

    def read(self, weights: Path) -> ForeignCoder:
        """Read an autoencoder: gated, or with ReLU, JumpReLU, TopK or BatchTopK.

        Raises:
            UserError: another class, no settings and tensors that fit several, a BatchTopK whose
                threshold was never set, a pickle of anything but tensors, or unusable files.
        """
        settings, found = _trainer(weights.with_name(self.settings)), read_pickle(weights)
        name = settings.get("dict_class") or _class_of(weights, found)
        known = _CLASSES[name]
        if not known.is_of(found.keys()):
            raise unusable(
                weights, f"tensors {', '.join(sorted(found))}, which are not of a {name}"
            )
        beside = {key: found.pop(key) for key in known.beside & found.keys()}
        ours = {theirs: ours for ours, theirs in known.names.items()}
        with told_in_one_line(weights):
            ks = {int(k) for k in (settings.get("k"), beside.get("k")) if k is not None}
            threshold = float(found["threshold"]) if known.kind is BatchTopK else 0.0
        if len(ks) != 1 and known.kind is not JumpReLU:
            raise unusable(weights, f"k = {' and '.join(map(str, ks)) or 'nothing'}")
        if threshold < 0:
            raise unusable(weights, f"threshold {threshold:g}: it was never set")
        tensors = transposed(floats(weights, found), "W_enc", "decoder.weight")
        site = site_of(settings.get("submodule_name") or "")
        return ForeignCoder(
            kind=known.kind,
            form=Form.autoencoder,
            tensors={ours[name]: tensor for name, tensor in tensors.items()},
            widths=(settings.get("activation_dim"), settings.get("dict_size"), None),
            settings={"k": ks.pop()} if known.kind is not JumpReLU else {},
            pre_bias=known.pre_bias,
            is_relu=known.is_relu,
            is_gated=known.is_gated,
            scales_by_decoder=known.is_relu,
            about={"site": site, "target": site},
        )


def _settings(coder: Coder, about: dict[str, Any]) -> dict[str, Any]:
    source = about.get("source") or {}
    lm, text = source.get("lm") or {}, source.get("text") or {}
    dict_class, trainer_class = _WRITTEN[coder.config.fires_by]
    trainer: dict[str, Any] = {
        "dict_class": dict_class,
        "trainer_class": trainer_class,
        "activation_dim": coder.d_in,
        "dict_size": coder.config.num_latents,
        "lm_name": lm.get("name"),
        "layer": layer_of(about["site"]),
        "submodule_name": about["site"],
    }
    if coder.config.fires_by is not FiresBy.thresholds:
        trainer |= coder.config.aim
    return {"trainer": trainer, "buffer": {"ctx_len": text.get("sequence_length")}}


def _trainer(path: Path) -> dict[str, Any]:
    """What the settings say of the coder; nothing where there are none, as beside old files."""
    settings = read_understood(path, _UNDERSTOOD, _NO_BEARING, is_optional=True)
    return dict(settings.get("trainer", {}))


def _class_of(path: Path, found: Mapping[str, Tensor]) -> str:
    """The one class that has these tensors."""
    names = [name for name, known in _CLASSES.items() if known.is_of(found.keys())]
    if len(names) != 1:
        told = " or ".join(names) or "none that is known"
        raise unusable(path, f"tensors of {told}: only a config.json beside it can say")
    return names[0]
