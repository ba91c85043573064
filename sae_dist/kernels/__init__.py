"""The arithmetic of a step. `reference.py` is its specification, in plain torch."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.kernels.adam import AdamRows, AdamStep
    from sae_dist.kernels.aux import aux_pass
    from sae_dist.kernels.dense import DensePass, dense_jumprelu
    from sae_dist.kernels.dispatch import update_rows
    from sae_dist.kernels.pattern import SparsePattern, join
    from sae_dist.kernels.reference import jumprelu, kth_largest, step
    from sae_dist.kernels.search import (
        Encoder,
        all_above,
        rounded_dtype,
        search_dtype,
        threshold_candidates,
        topk_candidates,
    )
    from sae_dist.kernels.sparse import GradientForm, decode, encode

__all__ = [
    "AdamRows",
    "AdamStep",
    "SparsePattern",
    "DensePass",
    "Encoder",
    "GradientForm",
    "all_above",
    "threshold_candidates",
    "aux_pass",
    "decode",
    "dense_jumprelu",
    "encode",
    "join",
    "jumprelu",
    "kth_largest",
    "topk_candidates",
    "rounded_dtype",
    "search_dtype",
    "step",
    "update_rows",
]

lazily(__name__)
