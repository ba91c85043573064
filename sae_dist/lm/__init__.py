"""A frozen language model: its named sites, what passes there, and what if something else did."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.lm.capture import Capture, compile_layers, site_widths, truncate
    from sae_dist.lm.config import LMConfig, LMDtype, SmallLMConfig
    from sae_dist.lm.files import find_lm
    from sae_dist.lm.fold import fold_rms_norms
    from sae_dist.lm.foresee import foresee, most_positions
    from sae_dist.lm.from_scratch import train_small_lm
    from sae_dist.lm.load import LM, load_lm, load_tokenizer
    from sae_dist.lm.loss import divergence_NS, loss_of_logits_NS, next_token_loss_NS
    from sae_dist.lm.rollout import rollouts
    from sae_dist.lm.sites import End, Site, resolve
    from sae_dist.lm.size import LMSize, expand_sites, lm_size
    from sae_dist.lm.splice import splice
    from sae_dist.lm.tensor import load_sliced_lm, sliced_sites
    from sae_dist.lm.zero3 import load_zero3_lm, spread_engine

__all__ = [
    "LM",
    "Capture",
    "End",
    "LMConfig",
    "LMDtype",
    "LMSize",
    "Site",
    "SmallLMConfig",
    "compile_layers",
    "expand_sites",
    "divergence_NS",
    "find_lm",
    "fold_rms_norms",
    "foresee",
    "lm_size",
    "load_lm",
    "load_sliced_lm",
    "load_zero3_lm",
    "load_tokenizer",
    "loss_of_logits_NS",
    "most_positions",
    "next_token_loss_NS",
    "resolve",
    "rollouts",
    "site_widths",
    "sliced_sites",
    "splice",
    "spread_engine",
    "train_small_lm",
    "truncate",
]

lazily(__name__)
