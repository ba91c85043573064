"""One unit through the language model, as a store would hold it."""

import threading

import torch
from torch import Tensor

from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.errors import UserError
from sae_dist.live.units import Unit
from sae_dist.lm import LM, Capture, resolve

PASSING = threading.Lock()
"""Of all passes of a process: another one's hooks would see, or change, this one's activations."""


class Passes:
    """Runs units through a language model up to the last of `sites`, one pass at a time.

    A unit is always one forward pass, whoever runs it, so that all who run it on equal processors
    get the same activations.
    """

    def __init__(self, lm: LM, sites: list[str], dtype: FloatDtype) -> None:
        self.dtype = dtype
        self.device = next(lm.model.parameters()).device
        self._capture = Capture(lm.model, [resolve(lm.model, site) for site in sites])

    def __call__(self, unit: Unit) -> dict[str, Tensor]:
        """Activations [N, S, D] of each site, rounded to `dtype`, on the model's device.

        Raises UserError when one at a trainable token is not finite.
        """
        ids_NS = torch.from_numpy(unit.ids_NS).to(self.device)
        trainable_NS = torch.from_numpy(unit.trainable_NS).to(self.device)
        with PASSING:
            captured = self._capture(ids_NS)
        acts = {site: x.to(self.dtype.compute) for site, x in captured.items()}
        for site, acts_NSD in acts.items():
            bad_NS = trainable_NS & ~torch.isfinite(acts_NSD).all(2)
            if bad_NS.any():
                sequence = unit.number * len(ids_NS) + int(bad_NS.any(1).nonzero()[0])
                raise UserError(
                    f"found NaN or infinity at {site} at a trainable token of sequence {sequence}; "
                    "expected finite activations; choose harvest.writer.dtype=float32, or harvest "
                    "to a store with writer.non_finite=drop"
                )
        return acts
