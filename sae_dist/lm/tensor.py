"""Language models larger than one device: transformers' tensor parallelism slices their matrices.

Each process holds its slices and computes the same residual stream as the others of its team; its
world of torch.distributed, initialised before loading, is the team (`harvest.join_team`).
"""

import re
from collections.abc import Sequence

from transformers import PretrainedConfig, PreTrainedModel
from transformers.distributed import DistributedConfig

from sae_dist.common.errors import UserError
from sae_dist.lm.config import LMConfig
from sae_dist.lm.files import read_config
from sae_dist.lm.load import LM, load_lm
from sae_dist.lm.sites import End, Site

_SLICED = {("rowwise", End.input), ("colwise", End.output)}
_STYLES = {style for style, _ in _SLICED}


def load_sliced_lm(config: LMConfig) -> LM:
    """As `load_lm`, but each process of a team reads and holds its slice of most matrices alone.

    Raises UserError for a model without a plan in transformers, or whose heads do not divide.
    """
    require_plan(config, read_config(config).get_text_config())
    return load_lm(config, distributed_config=DistributedConfig(tp_size=config.tensor))


def sliced_sites(model: PreTrainedModel, sites: Sequence[Site]) -> frozenset[str]:
    """Names of the sites where each process of a team sees a slice of the width alone.

    They go in between the two matrices of an MLP or of attention: the first is cut by columns, the
    second by rows. Raises UserError for a site between them that is an end of neither.
    """
    plan = model.tp_plan
    inner = {path.rpartition(".")[0] for path, style in plan.items() if style in _STYLES}
    found = set()
    for site in sites:
        path = re.sub(r"(?<=\.)\d+(?=\.)", "*", site.module_path)
        if (style := plan.get(path)) in _STYLES:
            if (style, site.end) in _SLICED:
                found.add(site.name)
        elif "*" in path and path.rpartition(".")[0] in inner:
            raise UserError(
                f"found site {site.name}, of which each process holds an unknown part; expected an "
                "end of a layer, of its MLP, attention or matrices; name another or lm.tensor=1"
            )
    return frozenset(found)


def require_plan(config: LMConfig, text: PretrainedConfig) -> None:
    """Raise UserError for a text model that cannot be sliced over `config.tensor` processes."""
    if not getattr(text, "base_model_tp_plan", None):
        raise UserError(
            f"lm.tensor={config.tensor} for a model of type {text.model_type}; expected one that "
            "transformers has a tp_plan for, such as llama; set lm.tensor=1 or use ZeRO-3"
        )
    sizes = {
        name: size
        for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size")
        if (size := getattr(text, name, None)) is not None
    }
    uneven = {name: size for name, size in sizes.items() if size % config.tensor}
    if uneven:
        raise UserError(
            f"lm.tensor={config.tensor} with {uneven}; expected a divisor of each; choose another"
        )
    if config.compile:
        raise UserError(
            f"lm.compile=true with lm.tensor={config.tensor}; expected layers as they are where "
            "they are slices; drop one"
        )
    if config.fold_norms:
        raise UserError(
            f"lm.fold_norms=true with lm.tensor={config.tensor}; expected no folding of slices: "
            "fold once, save the model, and harvest from that folder"
        )
