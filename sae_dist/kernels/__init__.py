"""The arithmetic of a step. `reference.py` is its specification, in plain torch."""

from sae_dist.kernels.code import Code
from sae_dist.kernels.reference import jumprelu, kth_largest, step
from sae_dist.kernels.search import Encoder, above, largest
from sae_dist.kernels.sparse import decode, encode

__all__ = [
    "Code",
    "Encoder",
    "above",
    "decode",
    "encode",
    "jumprelu",
    "kth_largest",
    "largest",
    "step",
]
