"""Sparse coders: encoder → selection → decoder, their losses, first weights, folding and files."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.coders.coder import Coder
    from sae_dist.coders.collectives import Collectives, SingleProcess
    from sae_dist.coders.config import CoderConfig, FiresBy, Form, TensorSpec
    from sae_dist.coders.files import (
        config_of,
        describe_coder,
        load_coder,
        map_coder,
        save_coder,
        slice_of,
    )
    from sae_dist.coders.fold import fold, unfold
    from sae_dist.coders.frequency import FREQUENCY_EDGES, frequency_histogram
    from sae_dist.coders.initialise import initialise
    from sae_dist.coders.kinds import kind_named, kind_names
    from sae_dist.coders.kinds.abstopk import AbsTopK
    from sae_dist.coders.kinds.batchtopk import BatchTopK
    from sae_dist.coders.kinds.jumprelu import JumpReLU
    from sae_dist.coders.kinds.k_sparse import KSparse
    from sae_dist.coders.kinds.topk import TopK
    from sae_dist.coders.losses import (
        ROUNDING,
        LossTerms,
        moments,
        square_sum,
        total_variance,
        training_forward,
    )
    from sae_dist.coders.passes import dead_pass, sparse_pass
    from sae_dist.coders.select import batch_top_k, batch_top_k_code, top_k, top_k_entries

__all__ = [
    "AbsTopK",
    "BatchTopK",
    "Coder",
    "CoderConfig",
    "Collectives",
    "FREQUENCY_EDGES",
    "FiresBy",
    "Form",
    "JumpReLU",
    "KSparse",
    "LossTerms",
    "ROUNDING",
    "SingleProcess",
    "TensorSpec",
    "TopK",
    "batch_top_k",
    "batch_top_k_code",
    "config_of",
    "dead_pass",
    "describe_coder",
    "fold",
    "frequency_histogram",
    "initialise",
    "kind_named",
    "kind_names",
    "load_coder",
    "map_coder",
    "moments",
    "save_coder",
    "slice_of",
    "sparse_pass",
    "square_sum",
    "top_k",
    "top_k_entries",
    "total_variance",
    "training_forward",
    "unfold",
]

lazily(__name__)
