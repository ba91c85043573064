"""One way to every kernel: vectorised torch on a CPU, and wherever Triton is not."""

from sae_dist.kernels.vectorised import (
    GROUP,
    entries,
    entry_dots,
    group_maxima,
    latent_sums,
    product,
    round_rows,
    row_sums,
    update_rows,
)

__all__ = [
    "GROUP",
    "entries",
    "entry_dots",
    "group_maxima",
    "latent_sums",
    "product",
    "round_rows",
    "row_sums",
    "update_rows",
]
