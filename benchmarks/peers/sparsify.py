"""sparsify: its coder, and its trainer's step (the trainer itself needs a language model).

Its option `optimizer="adam"` is timed, as this project's moments are Adam's. On
a GPU its coder autocasts to bfloat16 by itself, whatever the setting.
"""

import torch
from sparsify import SparseCoder, SparseCoderConfig

from benchmarks.timing import DEVICE, Case


def time_steps(case: Case) -> dict[str, float]:
    """Take the steps of its clock."""
    config = SparseCoderConfig(num_latents=case.num_latents, k=case.l0)
    coder = SparseCoder(case.d_in, config, DEVICE)
    adam = torch.optim.Adam(coder.parameters(), lr=2e-4)
    for x_BD in case.clock:
        coder.set_decoder_norm_to_unit_norm()
        coder(x_BD).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
    return {"l0": float(case.l0)}
