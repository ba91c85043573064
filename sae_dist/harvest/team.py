"""Teams of processes: one holds a language model together, and teams are replicas."""

import os

import torch
import torch.distributed as dist
from torch import Tensor

from sae_dist.common.errors import UserError
from sae_dist.harvest.processes import Processes


def join_launched_team(size: int, device: torch.device) -> Processes:
    """`join_team` for processes that torchrun or accelerate launched."""
    if "WORLD_SIZE" not in os.environ:
        raise UserError(
            f"lm.tensor={size} and one process; expected {size} or more; use accelerate launch"
        )
    return join_team(size, device, *next(dist.rendezvous("env://")))


def join_team(
    size: int, device: torch.device, store: dist.Store, rank: int, world: int
) -> Processes:
    """Make each `size` neighbours among `world` processes a world of torch.distributed.

    transformers slices a language model over a whole world and refuses a mesh that is less; so a
    team is one, and teams meet in the activation store alone. Raises UserError if they do not come
    out even.
    """
    if world % size:
        raise UserError(
            f"lm.tensor={size} and {world} processes; expected a multiple; launch other processes"
        )
    index, place = divmod(rank, size)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore(f"team/{index}", store),
        rank=place,
        world_size=size,
    )
    return Processes(index, world // size, device, in_team=True, leads=place == 0, store=store)


def join_slices(acts_NSK: Tensor) -> Tensor:
    """The whole activations [N, S, D] of a team, from each process' slice of equal width."""
    slices = [torch.empty_like(acts_NSK) for _ in range(dist.get_world_size())]
    dist.all_gather(slices, acts_NSK.contiguous())
    return torch.cat(slices, dim=-1)
