"""The processes of a run, as the launcher started them."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist

from sae_dist.common.memory import keep_freed_memory

_TIMEOUT = timedelta(minutes=10)
_stores: list[dist.Store] = []  # as long as the process: others may ask when the first is done


@dataclass(frozen=True, slots=True)
class World:
    """This process among all: its rank, how many there are, and the device it computes on.

    `store` is the launcher's key-value store, where there is a launcher, and `per_node` the number
    of processes on this host, if that says it.
    """

    rank: int
    size: int
    device: torch.device
    store: dist.Store | None = field(default=None, compare=False)
    per_node: int | None = None

    def largest(self, numbers: list[float]) -> list[float]:
        """Of each number the largest of all processes, whose hosts talk; all ask alike."""
        if self.size == 1:
            return numbers
        largest = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest.tolist()


def local_device() -> torch.device:
    """The GPU among those this process sees that it computes on from now on; without one the CPU.

    Slurm may show each of a host's tasks one GPU alone. LOCAL_RANK, by which accelerate, DeepSpeed
    and transformers find theirs, then counts what is seen, too.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    place = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    if "LOCAL_RANK" in os.environ:
        os.environ["LOCAL_RANK"] = str(place)
    torch.cuda.set_device(place)
    return torch.device("cuda", place)


@contextmanager
def start_world() -> Iterator[World]:
    """Join the processes that torchrun, accelerate or Slurm started; alone without a launcher.

    Collectives run over NCCL for tensors on GPUs and over gloo for tensors on CPUs. In a program
    that has made a group of all its processes, that one is taken, and left.
    """
    device = local_device()
    if device.type == "cpu":
        keep_freed_memory()
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    store, is_ours = None, not dist.is_initialized()
    if not is_ours:
        store = _own_store() if dist.get_world_size() > 1 else None
    elif "RANK" in os.environ:
        store, rank, size = next(dist.rendezvous("env://", timeout=_TIMEOUT))
        store.set_timeout(_TIMEOUT)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        # Who ended at once, of a mistake, would cut off the ranks that still connect.
        dist.all_reduce(torch.zeros(1))
        per_node = os.environ.get("LOCAL_WORLD_SIZE")
        size = dist.get_world_size()
        yield World(dist.get_rank(), size, device, store, int(per_node) if per_node else None)
    finally:
        if is_ours:
            dist.destroy_process_group()


def _own_store() -> dist.Store:
    """A store of ours at the first process: of the group's own torch tells nobody in public."""
    host = os.environ.get("MASTER_ADDR") or socket.gethostname()
    store, is_first = None, dist.get_rank() == 0
    if is_first:
        store = dist.TCPStore(host, 0, is_master=True, timeout=_TIMEOUT, wait_for_workers=False)
    where = [(host, store.port if store else 0)]
    dist.broadcast_object_list(where, src=0)
    _stores.append(store or dist.TCPStore(*where[0], timeout=_TIMEOUT))
    return _stores[-1]
