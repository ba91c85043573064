"""The arithmetic of a step. `reference.py` is its specification, in plain torch."""

from sae_dist.kernels.reference import jumprelu, kth_largest, step

__all__ = ["jumprelu", "kth_largest", "step"]
