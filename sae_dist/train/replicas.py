"""Whether replicas are still replicas: the processes of a data axis hold the same bits."""

import torch
from torch import Tensor

from sae_dist.common.errors import UserError
from sae_dist.train.rung import Rung

_BLOCK_VALUES = 1 << 22  # hashed at a time: their int64 copies take 32 MiB
_ODD = 0x9E3779B97F4A7C15 - (1 << 64)  # 2⁶⁴/φ, as an int64: its multiples are well spread
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_replicas(rungs: list[Rung], step: int) -> None:
    """Compare all that a checkpoint of `rungs` would hold; called by all processes together.

    Raises:
        UserError: a tensor differs between processes that must hold the same.
    """
    for rung in rungs:
        world = rung.mesh.world
        if world.size == 1:
            continue
        names, tensors, are_slices = zip(*rung.held(), strict=True)
        hashes_T = torch.stack([bit_hash(tensor) for tensor in tensors])
        hashes_RT = world.all_gather(hashes_T[None]).cpu()
        for name, is_slice, hashes_R in zip(names, are_slices, hashes_RT.T, strict=True):
            num_slices = rung.mesh.latent.size if is_slice else 1
            for first in range(num_slices):
                ranks = range(first, world.size, num_slices)
                _compare(rung.name, name, {rank: int(hashes_R[rank]) for rank in ranks}, step)


@torch.no_grad()
def bit_hash(tensor: Tensor) -> Tensor:
    """Σᵢ bitsᵢ · (i (φ - 1) + φ) mod 2⁶⁴ (0-dim, int64), with φ the odd 2⁶⁴ / golden ratio.

    Every factor is odd, so that one changed value always changes the sum. Sums of integers are the
    same in any order, and so on any device.
    """
    bits_N = tensor.contiguous().view(_BITS[tensor.element_size()]).flatten()
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, len(bits_N), _BLOCK_VALUES):
        block_N = bits_N[start : start + _BLOCK_VALUES].long()
        factors_N = torch.arange(start, start + len(block_N), device=tensor.device)
        factors_N.mul_(_ODD - 1).add_(_ODD)
        total += factors_N.mul_(block_N).sum()
    return total


def _compare(rung: str, name: str, hashes: dict[int, int], step: int) -> None:
    values = list(hashes.values())
    common = max(values, key=values.count)
    others = [rank for rank, value in hashes.items() if value != common]
    if others:
        like = [rank for rank, value in hashes.items() if value == common]
        raise UserError(
            f"rung {rung}: {name} of rank {_listed(others)} is not that of rank {_listed(like)} "
            f"after step {step}, though they are replicas; look after the odd one's memory and "
            "device, and start again to go on from the last checkpoint"
        )


def _listed(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks))
