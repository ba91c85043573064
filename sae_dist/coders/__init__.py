"""Sparse coders: encoder → selection → decoder, their losses, first weights, folding and files."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.coders.coder import Coder as Coder
    from sae_dist.coders.collectives import Collectives as Collectives
    from sae_dist.coders.collectives import SingleProcess as SingleProcess
    from sae_dist.coders.config import CoderConfig as CoderConfig
    from sae_dist.coders.config import FiresBy as FiresBy
    from sae_dist.coders.config import Form as Form
    from sae_dist.coders.config import Inputs as Inputs
    from sae_dist.coders.config import LevelWeights as LevelWeights
    from sae_dist.coders.config import TensorSpec as TensorSpec
    from sae_dist.coders.config import layers_of as layers_of
    from sae_dist.coders.cross_layer import CrossLayerTranscoder as CrossLayerTranscoder
    from sae_dist.coders.cross_layer import make_coder as make_coder
    from sae_dist.coders.files import config_of as config_of
    from sae_dist.coders.files import describe_coder as describe_coder
    from sae_dist.coders.files import load_coder as load_coder
    from sae_dist.coders.files import map_coder as map_coder
    from sae_dist.coders.files import save_coder as save_coder
    from sae_dist.coders.files import slice_of as slice_of
    from sae_dist.coders.fold import Scale as Scale
    from sae_dist.coders.fold import fold as fold
    from sae_dist.coders.fold import scale_of as scale_of
    from sae_dist.coders.fold import unfold as unfold
    from sae_dist.coders.frequency import FREQUENCY_EDGES as FREQUENCY_EDGES
    from sae_dist.coders.frequency import frequency_histogram as frequency_histogram
    from sae_dist.coders.initialise import firing_thresholds as firing_thresholds
    from sae_dist.coders.initialise import initialise as initialise
    from sae_dist.coders.initialise import long_tokens as long_tokens
    from sae_dist.coders.initialise import mean_to_spread as mean_to_spread
    from sae_dist.coders.kinds import kind_named as kind_named
    from sae_dist.coders.kinds import kind_names as kind_names
    from sae_dist.coders.kinds.abstopk import AbsTopK as AbsTopK
    from sae_dist.coders.kinds.batchtopk import BatchTopK as BatchTopK
    from sae_dist.coders.kinds.gated import Gated as Gated
    from sae_dist.coders.kinds.hierarchical_topk import HierarchicalTopK as HierarchicalTopK
    from sae_dist.coders.kinds.jumprelu import JumpReLU as JumpReLU
    from sae_dist.coders.kinds.k_sparse import KSparse as KSparse
    from sae_dist.coders.kinds.relu import ReLU as ReLU
    from sae_dist.coders.kinds.topk import TopK as TopK
    from sae_dist.coders.levels import level_of_latents as level_of_latents
    from sae_dist.coders.losses import ROUNDING as ROUNDING
    from sae_dist.coders.losses import LossTerms as LossTerms
    from sae_dist.coders.losses import Price as Price
    from sae_dist.coders.losses import moments as moments
    from sae_dist.coders.losses import square_sum as square_sum
    from sae_dist.coders.losses import total_variance as total_variance
    from sae_dist.coders.losses import training_forward as training_forward
    from sae_dist.coders.passes import DeadLatents as DeadLatents
    from sae_dist.coders.passes import dead_pass as dead_pass
    from sae_dist.coders.passes import sparse_pass as sparse_pass
    from sae_dist.coders.select import batch_top_k as batch_top_k
    from sae_dist.coders.select import batch_top_k_code as batch_top_k_code
    from sae_dist.coders.select import top_k as top_k
    from sae_dist.coders.select import top_k_entries as top_k_entries

lazily(__name__)
