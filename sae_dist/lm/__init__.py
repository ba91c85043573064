"""A frozen language model: its named sites, what passes there, and what if something else did."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.lm.capture import Capture as Capture
    from sae_dist.lm.capture import compile_layers as compile_layers
    from sae_dist.lm.capture import site_widths as site_widths
    from sae_dist.lm.capture import truncate as truncate
    from sae_dist.lm.config import LMConfig as LMConfig
    from sae_dist.lm.config import LMDtype as LMDtype
    from sae_dist.lm.config import SmallLMConfig as SmallLMConfig
    from sae_dist.lm.files import find_lm as find_lm
    from sae_dist.lm.fold import fold_rms_norms as fold_rms_norms
    from sae_dist.lm.foresee import foresee as foresee
    from sae_dist.lm.foresee import most_positions as most_positions
    from sae_dist.lm.from_scratch import train_small_lm as train_small_lm
    from sae_dist.lm.load import LM as LM
    from sae_dist.lm.load import decided_dtype as decided_dtype
    from sae_dist.lm.load import load_lm as load_lm
    from sae_dist.lm.load import load_tokenizer as load_tokenizer
    from sae_dist.lm.loss import divergence_NS as divergence_NS
    from sae_dist.lm.loss import loss_of_logits_NS as loss_of_logits_NS
    from sae_dist.lm.loss import next_token_loss_NS as next_token_loss_NS
    from sae_dist.lm.rollout import rollouts as rollouts
    from sae_dist.lm.sites import End as End
    from sae_dist.lm.sites import Site as Site
    from sae_dist.lm.sites import resolve as resolve
    from sae_dist.lm.size import LMSize as LMSize
    from sae_dist.lm.size import expand_sites as expand_sites
    from sae_dist.lm.size import lm_size as lm_size
    from sae_dist.lm.splice import splice as splice
    from sae_dist.lm.tensor import load_sliced_lm as load_sliced_lm
    from sae_dist.lm.tensor import sliced_sites as sliced_sites
    from sae_dist.lm.unembed import Unembedding as Unembedding
    from sae_dist.lm.unembed import load_unembeddings as load_unembeddings
    from sae_dist.lm.unembed import unembeddings as unembeddings
    from sae_dist.lm.zero3 import load_zero3_lm as load_zero3_lm
    from sae_dist.lm.zero3 import spread_engine as spread_engine

lazily(__name__)
