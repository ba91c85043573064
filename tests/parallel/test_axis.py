"""What goes over one axis of several processes, or of one."""

import pytest
import torch

from sae_dist.parallel import Axis, World
from tests.processes import run_on


def joined(world: World, lengths: list[int]) -> tuple[list, list, int]:
    axis = Axis(torch.distributed.group.WORLD, world.rank, world.size)
    x = torch.arange(lengths[world.rank])[:, None] + 10 * world.rank
    alike = torch.full((2, 3), float(world.rank))
    each = [part.tolist() for part in axis.each_slice(alike)]
    return axis.all_gather_uneven(x).tolist(), each, axis.bytes_sent


@pytest.mark.parametrize("lengths", [[3, 0, 2], [0, 0, 0]])
def test_processes_join_what_they_have_and_see_each_others(lengths: list[int]) -> None:
    expected = [[10 * rank + n] for rank, length in enumerate(lengths) for n in range(length)]
    for whole, each, num_bytes in run_on(3, joined, lengths):
        assert whole == expected
        assert each == [[[float(rank)] * 3] * 2 for rank in range(3)]
        assert num_bytes == 8 + 8 * max(lengths) + 2 * 3 * 4


def test_alone_everything_is_here_already() -> None:
    axis, x = Axis(), torch.arange(4.0)
    assert torch.equal(axis.all_gather_uneven(x), x)
    assert [part.tolist() for part in axis.each_slice(x)] == [x.tolist()]
    assert axis.bytes_sent == 0
