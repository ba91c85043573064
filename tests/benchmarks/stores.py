"""A small store of the sites that the benchmarks of trained coders read."""

from pathlib import Path

import torch

from benchmarks.activations import REAL_MLP, REAL_SITE, SITE
from sae_dist.store import write_store


def small_store(path: Path) -> Path:
    """Rows [40,000, 48], sparse combinations of 96 directions, the same at every site."""
    generator = torch.Generator().manual_seed(0)
    directions_LD = torch.randn(96, 48, generator=generator)
    active_NL = torch.rand(40_000, 96, generator=generator) < 0.05
    x_ND = (active_NL * torch.rand(active_NL.shape, generator=generator)) @ directions_LD
    acts = dict.fromkeys([SITE, REAL_SITE, *REAL_MLP], x_ND)
    return write_store(path, acts, chunk_mib=0.05, shard_mib=0.25, held_out=0.1).path
