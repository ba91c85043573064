"""The arithmetic of a step: `dispatch.py` says what each kernel computes."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.kernels.adam import AdamRows as AdamRows
    from sae_dist.kernels.adam import AdamStep as AdamStep
    from sae_dist.kernels.aux import aux_pass as aux_pass
    from sae_dist.kernels.dense import DensePass as DensePass
    from sae_dist.kernels.dense import dense_jumprelu as dense_jumprelu
    from sae_dist.kernels.dispatch import update_rows as update_rows
    from sae_dist.kernels.pattern import LatentRuns as LatentRuns
    from sae_dist.kernels.pattern import SparsePattern as SparsePattern
    from sae_dist.kernels.pattern import join as join
    from sae_dist.kernels.plain import jumprelu as jumprelu
    from sae_dist.kernels.plain import kth_largest as kth_largest
    from sae_dist.kernels.plain import step as step
    from sae_dist.kernels.search import MOST_RANKED as MOST_RANKED
    from sae_dist.kernels.search import Encoder as Encoder
    from sae_dist.kernels.search import all_above as all_above
    from sae_dist.kernels.search import rounded_dtype as rounded_dtype
    from sae_dist.kernels.search import search_dtype as search_dtype
    from sae_dist.kernels.search import threshold_candidates as threshold_candidates
    from sae_dist.kernels.search import topk_candidates as topk_candidates
    from sae_dist.kernels.sparse import GradientForm as GradientForm
    from sae_dist.kernels.sparse import RowGradient as RowGradient
    from sae_dist.kernels.sparse import decode as decode
    from sae_dist.kernels.sparse import encode as encode

lazily(__name__)
