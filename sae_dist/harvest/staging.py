"""Host memory in which the activations of a unit come together."""

import numpy as np
import torch
from torch import Tensor

from sae_dist.common.dtypes import FloatDtype, to_storage


class StagingBuffer:
    """Room for one unit's activations [n, S, D] of each site, in their stored dtype; used again.

    From a GPU they come by a stream of their own into pinned memory, while it computes on.
    """

    def __init__(
        self,
        widths: dict[str, int],
        shape: tuple[int, int],
        dtype: FloatDtype,
        device: torch.device,
    ) -> None:
        self._dtype = dtype
        is_cuda = device.type == "cuda"
        self._copies = torch.cuda.Stream(device) if is_cuda else None
        self._acts = {
            site: torch.empty(*shape, width, dtype=dtype.compute, pin_memory=is_cuda)
            for site, width in widths.items()
        }

    def put(self, sequences: range, acts: dict[str, Tensor]) -> None:
        """Round the activations [N, S, D] of a forward pass into their place."""
        if self._copies is not None:
            self._copies.wait_stream(torch.cuda.current_stream(self._copies.device))
        with torch.cuda.stream(self._copies):
            for site, acts_NSD in acts.items():
                rows_NSD = self._acts[site][sequences.start : sequences.stop]
                rows_NSD.copy_(acts_NSD, non_blocking=True)
                if self._copies is not None:  # its memory is not given away before it is read
                    acts_NSD.record_stream(self._copies)

    def arrays(self, num_sequences: int) -> dict[str, np.ndarray]:
        """The first sequences of each site as stored, once all have come: views, no copies."""
        if self._copies is not None:
            self._copies.synchronize()
        return {
            site: to_storage(acts_NSD[:num_sequences], self._dtype)
            for site, acts_NSD in self._acts.items()
        }
