"""Functions and commands in processes of their own, forked where all is imported already."""

import multiprocessing
import os
import pickle
import sys
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
        *("sae_dist.apps.harvest", "sae_dist.apps.train", "sae_dist.apps.evaluate"),
        "tests.reliability.jobs",  # harvests, which are killed and started hundreds of times
        *("tests.disks", "tests.forked"),
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


def launched(world: int, *arguments: str, cwd: Path, **environment: str) -> str:
    """Run `sae-dist arguments…` in `cwd`, on processes as torchrun starts them; what they said.

    In a world of one it is run without a launcher. Fails if one of the processes does.
    """
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    environment |= {"WANDB_MODE": "disabled"}
    if world > 1:  # the rendezvous is at the launcher's, as torchrun has it
        environment |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        environment |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
        environment |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    with tempfile.NamedTemporaryFile("r") as said:
        given = (said.name, arguments, cwd, environment)
        processes = [start(_command, rank, world, *given) for rank in range(world)]
        for process in processes:
            process.join(_PATIENCE)
            process.kill()
        text = said.read()
    assert [process.exitcode for process in processes] == [0] * world, text
    return text


def _command(
    rank: int,
    world: int,
    said: str,
    arguments: tuple[str, ...],
    cwd: Path,
    environment: dict[str, str],
) -> None:
    from sae_dist.apps import console

    os.chdir(cwd)
    os.dup2(os.open(said, os.O_WRONLY | os.O_APPEND), sys.stderr.fileno())
    os.environ.update(environment)
    if world > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    sys.argv = ["sae-dist", *arguments]
    console.main()
