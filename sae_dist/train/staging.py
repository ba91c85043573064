"""Batches on their way to the device."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from sae_dist.stream import Batch, StreamState

Staged = tuple[dict[str, Tensor], StreamState]


def on_device(
    batches: Iterable[tuple[Batch, StreamState]], device: torch.device
) -> Iterator[Staged]:
    """Each batch's activations by site on `device`, and the stream's state after it.

    To a GPU a batch is copied while the step before it computes: out of pinned memory, on a stream
    of its own, which the step's stream, and not the host, waits for. So `batches` is asked for one
    more than was given out, and must end where nobody will take any more.
    """
    if device.type != "cuda":
        for batch, state in batches:
            yield batch.acts, state
        return
    copies, computing = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    coming: tuple[Staged, torch.cuda.Event] | None = None
    for batch, state in batches:
        with torch.cuda.stream(copies):
            acts = {
                site: x.pin_memory().to(device, non_blocking=True) for site, x in batch.acts.items()
            }
        following = (acts, state), copies.record_event()
        if coming is not None:
            yield _arrived(*coming, computing)
        coming = following
    if coming is not None:
        yield _arrived(*coming, computing)


def _arrived(staged: Staged, copied: torch.cuda.Event, computing: torch.cuda.Stream) -> Staged:
    computing.wait_event(copied)
    for x in staged[0].values():
        x.record_stream(computing)  # its memory is not given to a later copy while a step reads it
    return staged
