"""The tensors that one process of a mesh holds of a rung, counted in bytes."""

from math import ceil

import torch

from sae_dist.coders import CoderConfig, layers_of, make_coder
from sae_dist.coders.flops import CANDIDATES
from sae_dist.train import OptimConfig
from sae_dist.train.optimizers import Optimizer

_INT64 = 8
# As a step has them on a GPU.
_BLOCK_VALUES = 1 << 28  # of the search's product at once, or those of a row
# Of such a value: bfloat16, and of 32 a float32 maximum with an int32 to list it, or with its bound
# and what that is made of.
_BLOCK_BYTES = 2 + 6 * 4 / 32
_PLACE_BYTES = 20  # of an entry that a program ranks with others of its row
_LEAST_PLACES, _PLACES_OF_K = 1024, 4  # of a row, a power of two
_ROWS_AT_ONCE = 5  # tensors of B × D or B × E that live at once in a step, about
_OF_A_LEVEL = 3  # more of B × E for each level beyond one: its part, error and their gradient
_DEAD_VALUES = 1 << 30  # of the dead latents at once
_DEAD_BYTES = 12  # of a dead latent's value: itself, what it is chosen by, masks; about
_DEAD_ENTRY_BYTES = 10  # of one that is chosen
ROUNDED_BYTES = 2  # bfloat16
_ENTRY_BYTES = 64  # of what is known of an entry: numbers, values, gradients, orders; about


def rung_memory(
    coder: CoderConfig,
    optim: OptimConfig,
    d_in: int,
    d_out: int,
    latent: int = 1,
    *,
    bytes_per_value: int = 4,
    bytes_per_searched: int = 2,
) -> dict[str, int]:
    """Bytes that a process holds between steps, and of gradients in one, by what they are.

    `parameters`, `moments` (of the optimizer), `average` (with `ema_decay`) and `counters` are what
    a checkpoint holds, `rounded` the encoder's copy for the search and its errors. `gradients` are
    at most that: sparse ones have fewer rows. All are those of a coder without memory of its own.

    Args:
        latent: processes that share the latents.
        bytes_per_value: of weights and moments.
        bytes_per_searched: of a value of the rounded copy; 0 without one.
    """
    F, w = coder.num_latents // latent, bytes_per_value
    dtype = torch.float64 if w == torch.float64.itemsize else torch.float32
    held = make_coder(coder, d_in, d_out, latents=range(F), dtype=dtype, device="meta")
    d_read = layers_of(coder, d_in, d_out)[0][1]  # by one latent
    gradients = sum(parameter.nbytes for parameter in held.parameters())
    states = Optimizer(held, optim).tensors()
    return {
        "parameters": sum(tensor.nbytes for tensor in held.state_dict().values()),
        "moments": sum(state.nbytes for *_, state in states),
        **({"average": gradients} if optim.ema_decay else {}),
        "counters": 2 * F * _INT64,
        "rounded": F * d_read * bytes_per_searched + 2 * F * w,
        "gradients": gradients,
    }


def checkpoint_bytes(memory: dict[str, int]) -> int:
    """Of one checkpoint of a rung, from what one process would hold of it alone."""
    return sum(memory.get(name, 0) for name in ("parameters", "moments", "average", "counters"))


def ranked_bytes(coder: CoderConfig) -> int:
    """Of one row, while a program finds the k largest of it."""
    places = ceil(_PLACES_OF_K * coder.expected_l0)
    return _PLACE_BYTES * max(_LEAST_PLACES, 1 << (places - 1).bit_length())


def working_memory(
    coder: CoderConfig, d_in: int, d_out: int, rows: int, latent: int, bytes_per_value: int = 4
) -> int:
    """About what a step makes and lets go of: rows, a block of the product, entries; with AuxK as
    if all latents were dead, as at worst they are.
    """
    F, num_layers = coder.num_latents // latent, coder.num_layers
    rows_at_once = min(rows, max(1, _BLOCK_VALUES * num_layers // F))
    block = rows_at_once * (int(_BLOCK_BYTES * F / num_layers) + ranked_bytes(coder))
    entries = int(rows * CANDIDATES * num_layers * coder.expected_l0) * _ENTRY_BYTES
    if coder.num_aux:
        block = max(block, _DEAD_BYTES * min(rows * F // num_layers, _DEAD_VALUES))
        layers = layers_of(coder, d_in, d_out)
        block += ROUNDED_BYTES * F // num_layers * sum(d + e + max(d, e) for _, d, e in layers)
        entries += rows * min(num_layers * coder.num_aux, F) * _DEAD_ENTRY_BYTES
    values = _ROWS_AT_ONCE * (d_in + d_out) + _OF_A_LEVEL * (coder.num_levels - 1) * d_out
    return rows * values * bytes_per_value + block + entries
