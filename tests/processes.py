"""Run a function on several gloo processes and collect what each returns."""

import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sae_dist.parallel import World

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("torch.distributed.checkpoint", "sae_dist.train", "sae_dist.evaluate"),
        "tests.reliability.jobs",  # harvests, which are killed and started hundreds of times
    ]
)
_TIMEOUT = timedelta(seconds=120)
_PATIENCE = 3 * _TIMEOUT.total_seconds()


def alone() -> World:
    """This process as a world of one."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return World(0, 1, torch.device("cpu"))


def start(function: Callable[..., Any], *args: Any) -> BaseProcess:
    """Call `function(*args)` in a process without a world, which the caller may kill, and joins."""
    process = CONTEXT.Process(target=function, args=args, daemon=True)
    process.start()
    return process


def run_on(world: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Call `function(World, *args)` on every rank of a world; returns the results by rank."""
    with tempfile.TemporaryDirectory() as folder:
        results = CONTEXT.Queue()
        processes = [
            CONTEXT.Process(
                target=as_rank, args=(rank, world, Path(folder) / "store", results, function, args)
            )
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        try:
            found = [pickle.loads(results.get(timeout=_PATIENCE)) for _ in processes]
        finally:
            for process in processes:
                process.join(timeout=10)
                process.kill()
    failures = [value for _, is_error, value in found if is_error]
    assert not failures, "\n".join(failures)
    return [value for _, _, value in sorted(found, key=lambda item: item[0])]


def as_rank(
    rank: int, world: int, store: Path, results: Any, function: Callable[..., Any], args: Any
) -> None:
    """Call `function(World, *args)` here; put (rank, whether it failed, what it gave).

    Pickled here: a queue would leave tensors in memory that is gone with this process.
    """
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    try:
        met = dist.FileStore(str(store), world)
        dist.init_process_group("gloo", store=met, rank=rank, world_size=world, timeout=_TIMEOUT)
        dist.barrier()  # who leaves at once would close on those that still connect
        value = function(World(rank, world, torch.device("cpu"), met), *args)
        results.put(pickle.dumps((rank, False, value)))
        dist.barrier()
    except BaseException:  # the parent re-raises it; what pytest raises is no Exception
        results.put(pickle.dumps((rank, True, traceback.format_exc())))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
