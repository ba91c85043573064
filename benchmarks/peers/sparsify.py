"""sparsify: its coder, and its trainer's step (the trainer itself needs a language model).

Its option `optimizer="adam"` is timed, as this project's moments are Adam's. On
a GPU its coder autocasts to bfloat16 by itself, whatever the setting.
"""

import torch
from sparsify import SparseCoder, SparseCoderConfig

from benchmarks.measure import DEVICE, arguments, show


def main() -> None:
    """Time one case and print it."""
    options = arguments()
    config = SparseCoderConfig(num_latents=options.num_latents, k=options.l0)
    coder = SparseCoder(options.d_in, config, DEVICE)
    adam = torch.optim.Adam(coder.parameters(), lr=2e-4)
    for x_BD in options.clock:
        coder.set_decoder_norm_to_unit_norm()
        coder(x_BD).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
    show(options.clock, float(options.l0))


if __name__ == "__main__":
    main()
