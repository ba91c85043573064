"""Which device a process takes, on hosts with GPUs as they are shown to it."""

import os

import pytest
import torch
import torch.distributed as dist

from sae_dist.parallel import World, local_device, start_world
from tests.processes import alone, run_on


@pytest.mark.parametrize(
    ("local_rank", "seen", "taken"),
    [("3", 8, 3), ("3", 1, 0), ("5", 4, 1), (None, 2, 0)],  # 1: Slurm shows each task its own
)
def test_a_process_takes_a_gpu_that_it_sees(
    monkeypatch: pytest.MonkeyPatch, local_rank: str | None, seen: int, taken: int
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert local_device() == torch.device("cuda", taken)
    assert chosen == [taken]
    assert os.environ.get("LOCAL_RANK") == (None if local_rank is None else str(taken))


def test_a_program_s_own_group_is_taken_and_left() -> None:
    alone()
    with start_world() as world:
        assert (world.rank, world.size) == (0, 1)
    assert dist.is_initialized()
    assert run_on(2, add_up_in_its_store) == [11, 11]


def add_up_in_its_store(world: World) -> int:
    with start_world() as found:
        assert found == world and found.store is not None
        found.store.add("sum", 1 + 9 * world.rank)
        dist.barrier()
        return found.store.clone().add("sum", 0)  # type: ignore[attr-defined]
