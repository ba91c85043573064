"""sparsify: its coder, and the lines of its trainer around it (which wants a language model).

`same` is its option `adam`, with its linear schedule; `own` is its default: SignSGD in a wrapper
without schedule, at its own rate, on activations as they are. Of a transcoder b_dec begins at the
target's mean, as its trainer has it.
"""

import math

import torch
from schedulefree import ScheduleFreeWrapper
from sparsify import SparseCoder, SparseCoderConfig
from sparsify.sign_sgd import SignSGD
from transformers import get_linear_schedule_with_warmup

from benchmarks.trained.task import AUTOENCODER, DEVICE, SKIP, Task, Weights, finish


def take_steps(coder: SparseCoder, task: Task, factors: tuple[float, float]) -> None:
    """The steps of its trainer: biases from the first batch's means, AuxK, and unit decoder rows of
    an autoencoder.
    """
    recipe, num_latents = task.recipe, task.setup.num_latents
    is_adam, is_autoencoder = task.setting == "same", task.form == AUTOENCODER
    if is_adam:
        optimizer = torch.optim.Adam(coder.parameters(), lr=recipe.lr)
        schedule = get_linear_schedule_with_warmup(optimizer, task.warmup_steps, task.num_steps)
    else:
        rate = 5e-3 / math.sqrt(num_latents / 2**14)
        optimizer = ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=rate), momentum=0.95)
        optimizer.train()
    silent_F = torch.zeros(num_latents, dtype=torch.long, device=DEVICE)
    for step, (x_BD, y_BE) in enumerate(task.pairs(*factors)):
        if step == 0:
            coder.b_dec.data = y_BE.mean(0)
            if not is_autoencoder:
                coder.encoder.bias.data = -x_BD.mean(0) @ coder.encoder.weight.data.T
        if is_autoencoder:
            coder.set_decoder_norm_to_unit_norm()
        has_aux = recipe.aux_coefficient > 0
        out = coder(x_BD, y_BE, dead_mask=silent_F > recipe.dead_after if has_aux else None)
        (out.fvu + recipe.aux_coefficient * out.auxk_loss).backward()
        if is_autoencoder:
            coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        if is_adam:
            schedule.step()
        silent_F += len(x_BD)
        silent_F[out.latent_indices.flatten()] = 0
    if not is_adam:
        optimizer.eval()
    if is_autoencoder:
        coder.set_decoder_norm_to_unit_norm()


def train(task: Task) -> float:
    """Train one coder and write its weights; the seconds it took."""
    factors = (1.0, 1.0) if task.setting == "same" else (task.scale, task.target_scale)
    is_autoencoder = task.form == AUTOENCODER
    config = SparseCoderConfig(
        num_latents=task.setup.num_latents,
        k=int(task.aim),
        transcode=not is_autoencoder,
        skip_connection=task.form == SKIP,
    )
    coder = SparseCoder(task.d_in, config, DEVICE)
    take_steps(coder, task, factors)
    encoder = coder.encoder
    weights = Weights(encoder.weight, encoder.bias, coder.W_dec, coder.b_dec, W_skip=coder.W_skip)
    scales = {"factor": factors[0], "target_factor": factors[1]}
    folded = weights.folded(is_pre_bias=is_autoencoder, **scales)
    return finish(task, folded, lambda x_BD: coder(x_BD).sae_out, **scales)
