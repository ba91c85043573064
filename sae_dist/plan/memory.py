"""The tensors that one process of a mesh holds of a rung, counted in bytes."""

from sae_dist.coders import CoderConfig, Form, Kind
from sae_dist.coders.flops import CANDIDATES, active_a_row
from sae_dist.train import OptimConfig

_INT64, _FLOAT64, _STEP = 8, 8, 4
_BLOCK_LATENTS, _BLOCK_VALUES = 1 << 16, 1 << 28  # of a product at once, on GPUs
_ROWS_AT_ONCE = 5  # tensors of B × D or B × E that live at once in a step, about
_DEAD_VALUES = 1 << 26  # of the dead latents at once
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

    `parameters`, `moments` and `counters` are what a checkpoint holds, `rounded` the encoder's copy
    for the search and its errors. `gradients` are at most that: sparse ones have fewer rows.

    Args:
        latent: processes that share the latents.
        bytes_per_value: of weights and moments.
        bytes_per_searched: of a value of the rounded copy.
    """
    F, D, E, w = coder.num_latents // latent, d_in, d_out, bytes_per_value
    matrices = F * (D + E)
    vectors = [F, E]  # b_enc, b_dec
    if coder.kind is Kind.jumprelu:
        vectors.append(F)
    if coder.form is Form.skip_transcoder:
        vectors.append(E * D)
    of_rows = 2 * matrices * w if optim.beta1 else matrices * w + 2 * F * _INT64
    threshold = _FLOAT64 if coder.kind is Kind.batchtopk else 0
    return {
        "parameters": (matrices + sum(vectors)) * w + threshold,
        "moments": of_rows + 2 * sum(vectors) * w + len(vectors) * _STEP,
        "counters": 2 * F * _INT64,
        "rounded": F * D * bytes_per_searched + 2 * F * w,
        "gradients": (matrices + sum(vectors)) * w,
    }


def checkpoint_bytes(memory: dict[str, int]) -> int:
    """Of one checkpoint of a rung, from what one process would hold of it alone."""
    return memory["parameters"] + memory["moments"] + memory["counters"]


def working_memory(
    coder: CoderConfig, d_in: int, d_out: int, rows: int, latent: int, bytes_per_value: int = 4
) -> int:
    """About what a step makes and lets go of: rows, a block of the product, entries; with AuxK as
    if all latents were dead, as at worst they are.
    """
    F = coder.num_latents // latent
    block = 2 * min(rows * min(F, _BLOCK_LATENTS), _BLOCK_VALUES)
    entries = int(rows * CANDIDATES * active_a_row(coder)) * _ENTRY_BYTES
    if coder.uses_aux_k:
        block = max(block, _DEAD_BYTES * min(rows * F, _DEAD_VALUES))
        block += ROUNDED_BYTES * F * (d_in + d_out + max(d_in, d_out))
        entries += rows * min(coder.aux_k, F) * _DEAD_ENTRY_BYTES
    return _ROWS_AT_ONCE * rows * (d_in + d_out) * bytes_per_value + block + entries
