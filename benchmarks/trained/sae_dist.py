"""This project: `training_step` on a rung, as a run takes it, by the task's recipe."""

from itertools import accumulate
from typing import Any

import torch

from benchmarks.own import take_step
from benchmarks.timing import matmul_for
from benchmarks.trained.task import (
    AUTOENCODER,
    GATED,
    GROUPS,
    MATRYOSHKA,
    RELU,
    TOLD_K,
    Task,
    Weights,
    finish,
)
from sae_dist.coders import Form, fold, kind_named
from sae_dist.interop import plain_tensors
from sae_dist.parallel import World, make_mesh, start_world
from sae_dist.train import Adam, Rung, RungConfig, SharedRows
from sae_dist.train.config import Precision

_SAMPLE_TOKENS = 8192
_SITE, _TARGET = "x", "y"


def coder_settings(task: Task) -> dict[str, Any]:
    """Those that its kind has beside every coder's."""
    recipe = task.recipe
    if task.kind in TOLD_K:
        aux = {"aux_k": recipe.aux_k, "aux_coefficient": recipe.aux_coefficient}
        own = {"k": int(task.aim)} | aux
        if task.form != AUTOENCODER:
            own["unit_norm_decoder"] = False
        return own | ({"levels": list(accumulate(GROUPS[:-1]))} if task.kind == MATRYOSHKA else {})
    if task.kind in (GATED, RELU):
        return {"sparsity_coefficient": task.aim, "initial_l0": recipe.initial_l0}
    return {
        "bandwidth": recipe.bandwidth,
        "initial_threshold": recipe.threshold,
        "sparsity_coefficient": recipe.sparsity,
        "target_l0": task.aim,
    }


def make_rung(task: Task, world: World, **more: Any) -> Rung:
    """A rung of that kind, on a 1×1 mesh, with its first weights; `more` settings of the coder take
    the place of its own.
    """
    recipe = task.recipe
    coder = kind_named(task.kind.removeprefix("matryoshka_"))(
        num_latents=task.setup.num_latents,
        form=Form(task.form),
        initial_encoder_norm=recipe.encoder_norm,
        dead_after_tokens=recipe.dead_after,
        **(coder_settings(task) | more),
    )
    optim = Adam(
        lr=recipe.lr,
        beta1=recipe.beta1,
        beta2=recipe.beta2,
        eps=recipe.eps,
        warmup_steps=task.warmup_steps,
        decay_share=recipe.decay_share,
        sparsity_warmup_steps=task.sparsity_warmup_steps,
        clip_norm=recipe.clip_norm,
    )
    target = _SITE if task.form == AUTOENCODER else _TARGET
    config = RungConfig(name=task.name, site=_SITE, target=target, coder=coder, optim=optim)
    mesh = make_mesh(world, 1, {})
    rung = Rung(config, mesh, 1.0, task.d_in, task.d_out, Precision(task.setting), world.device)
    rung.initialise(task.seed, *task.first(_SAMPLE_TOKENS))
    return rung


def take_steps(rung: Rung, task: Task) -> None:
    """The whole run."""
    for step, (x_BD, y_BE) in enumerate(task.pairs()):
        rows = SharedRows({_SITE: x_BD, _TARGET: y_BE}, torch.float32)
        take_step(rung, rows, step, task.num_steps)


def train(task: Task) -> float:
    """Train one coder and write its weights; the task's setting is a precision."""
    torch.set_float32_matmul_precision(matmul_for(task.setting))
    with start_world() as world:
        rung = make_rung(task, world)
        take_steps(rung, task)
        torch.set_float32_matmul_precision("highest")
        coder = fold(rung.coder, 1.0)
        tensors = plain_tensors(coder)
        weights = Weights(**{name: tensor.to(world.device) for name, tensor in tensors.items()})
        return finish(task, weights, coder, 1.0)
