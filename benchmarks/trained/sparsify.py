"""sparsify: its coder, and the lines of its trainer around it (which wants a language model).

`same` is its option `adam`, with its linear schedule; `own` is its default: SignSGD in a wrapper
without schedule, at its own rate, on activations as they are.
"""

import math

import torch
from schedulefree import ScheduleFreeWrapper
from sparsify import SparseCoder, SparseCoderConfig
from sparsify.sign_sgd import SignSGD
from transformers import get_linear_schedule_with_warmup

from benchmarks.trained.task import (
    AUX_COEFFICIENT,
    BATCH,
    DEAD_AFTER,
    DEVICE,
    LR,
    NUM_LATENTS,
    Task,
    Weights,
    finish,
)


def take_steps(coder: SparseCoder, task: Task, factor: float) -> None:
    """The steps of its trainer: b_dec from the first batch's mean, AuxK, unit decoder rows."""
    is_adam = task.setting == "same"
    if is_adam:
        optimizer = torch.optim.Adam(coder.parameters(), lr=LR["topk"])
        schedule = get_linear_schedule_with_warmup(optimizer, task.warmup_steps, task.num_steps)
    else:
        rate = 5e-3 / math.sqrt(NUM_LATENTS / 2**14)
        optimizer = ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=rate), momentum=0.95)
        optimizer.train()
    silent_F = torch.zeros(NUM_LATENTS, dtype=torch.long, device=DEVICE)
    for step, x_BD in enumerate(task.batches(factor)):
        if step == 0:
            coder.b_dec.data = x_BD.mean(0)
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x_BD, dead_mask=silent_F > DEAD_AFTER)
        (out.fvu + AUX_COEFFICIENT * out.auxk_loss).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        if is_adam:
            schedule.step()
        silent_F += BATCH
        silent_F[out.latent_indices.flatten()] = 0
    if not is_adam:
        optimizer.eval()
    coder.set_decoder_norm_to_unit_norm()


def train(task: Task) -> float:
    """Train one coder and write its weights; the seconds it took."""
    factor = 1.0 if task.setting == "same" else task.scale
    config = SparseCoderConfig(num_latents=NUM_LATENTS, k=int(task.aim))
    coder = SparseCoder(task.d_in, config, DEVICE)
    take_steps(coder, task, factor)
    encoder = coder.encoder
    weights = Weights(encoder.weight, encoder.bias, coder.W_dec, coder.b_dec)
    folded = weights.folded(is_pre_bias=True, factor=factor)
    return finish(task, folded, lambda x_BD: coder(x_BD).sae_out, factor)
