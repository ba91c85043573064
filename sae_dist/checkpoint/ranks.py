"""Work that all ranks do together: done on every one, or failed on every one."""

import traceback
from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from sae_dist.common.errors import UserError

T = TypeVar("T")


def on_every_rank(group: dist.ProcessGroup | None, work: Callable[[], T]) -> list[T]:
    """Call `work` on every rank of a group, None for the world; what it gave on each, by rank.

    Raises:
        UserError, OSError: `work` raised it on some rank; on all, the lowest such rank's.
        RuntimeError: `work` raised anything else; the message holds its traceback.
    """
    mine: tuple[list[T], Exception | None]
    try:
        mine = [work()], None
    except (UserError, OSError) as error:
        mine = [], error
    except Exception:  # it may hold what cannot be sent
        mine = [], RuntimeError(traceback.format_exc())
    found = [mine] * dist.get_world_size(group)
    dist.all_gather_object(found, mine, group=group)
    for _, failure in found:
        if failure is not None:
            raise failure
    return [value for values, _ in found for value in values]


def on_first_rank(group: dist.ProcessGroup | None, work: Callable[[], T]) -> T:
    """Call `work` on rank 0 alone; what it gave, on every rank. Raises as `on_every_rank` does."""
    given = on_every_rank(group, lambda: [work()] if dist.get_rank(group) == 0 else [])
    return given[0][0]
