"""Sparse coders: encoder → selection → decoder, their losses, first weights, folding and files."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.coders.coder import Coder
    from sae_dist.coders.collectives import Collectives, SingleProcess
    from sae_dist.coders.config import CoderConfig, Form, Kind
    from sae_dist.coders.files import config_of, describe_coder, load_coder, save_coder, slice_of
    from sae_dist.coders.fold import fold, unfold
    from sae_dist.coders.frequency import FREQUENCY_EDGES, frequency_histogram
    from sae_dist.coders.initialise import initialise
    from sae_dist.coders.losses import ROUNDING, LossTerms, total_variance, training_forward

__all__ = [
    "FREQUENCY_EDGES",
    "ROUNDING",
    "Coder",
    "CoderConfig",
    "Form",
    "LossTerms",
    "Kind",
    "Collectives",
    "SingleProcess",
    "config_of",
    "describe_coder",
    "fold",
    "frequency_histogram",
    "initialise",
    "load_coder",
    "save_coder",
    "slice_of",
    "total_variance",
    "training_forward",
    "unfold",
]

lazily(__name__)
