"""SAELens: its `SAETrainer.step`.

`same` gives it activations of E‖x‖² = 1 and first decoder rows of norm 1, as this project has
them, and for JumpReLU Gemma Scope 2's penalty. `own` gives it E‖x‖² = D, its first norm of 0.1, its
default rate, moments, bandwidth and threshold, and for JumpReLU its default penalty, with a
coefficient that is searched.
"""

import math
import tempfile
from itertools import accumulate
from typing import Any

import torch
from sae_lens import (
    SAE,
    AbsTopKTrainingSAE,
    AbsTopKTrainingSAEConfig,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from benchmarks.trained.task import (
    ABSTOPK,
    DEVICE,
    GATED,
    GROUPS,
    MATRYOSHKA,
    RELU,
    TOLD_K,
    Task,
    Weights,
    finish,
)


def make_coder(task: Task) -> Any:
    """Its coder of that kind."""
    is_same, recipe = task.setting == "same", task.recipe
    common = {"d_in": task.d_in, "d_sae": task.setup.num_latents, "device": DEVICE}
    if is_same:
        common["decoder_init_norm"] = recipe.encoder_norm
    if task.kind == "topk":
        return TopKTrainingSAE(TopKTrainingSAEConfig(**common, k=int(task.aim)))
    if task.kind == ABSTOPK:
        return AbsTopKTrainingSAE(AbsTopKTrainingSAEConfig(**common, k=int(task.aim)))
    if task.kind == "batchtopk":
        return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**common, k=task.aim))
    if task.kind == MATRYOSHKA:
        widths = [round(share * task.setup.num_latents) for share in accumulate(GROUPS)]
        config = MatryoshkaBatchTopKTrainingSAEConfig(
            **common, k=task.aim, matryoshka_widths=widths
        )
        return MatryoshkaBatchTopKTrainingSAE(config)
    if task.kind in (GATED, RELU):
        common |= {"l1_coefficient": task.aim, "l1_warm_up_steps": task.sparsity_warmup_steps}
        if task.kind == GATED:
            return GatedTrainingSAE(GatedTrainingSAEConfig(**common))
        return StandardTrainingSAE(StandardTrainingSAEConfig(**common))
    common["l0_warm_up_steps"] = task.sparsity_warmup_steps
    if not is_same:
        return JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(**common, l0_coefficient=task.aim))
    config = JumpReLUTrainingSAEConfig(
        **common,
        jumprelu_sparsity_loss_mode="quadratic",
        target_l0=task.aim,
        l0_coefficient=recipe.sparsity,
        jumprelu_bandwidth=recipe.bandwidth,
        jumprelu_init_threshold=recipe.threshold,
    )
    return JumpReLUTrainingSAE(config)


def make_config(task: Task) -> SAETrainerConfig:
    """The rates of the run, in samples and steps as it counts them."""
    equal = {"lr_end": SAETrainerConfig.lr}
    recipe, batch = task.recipe, task.setup.batch
    if task.setting == "same":
        equal = {"lr": recipe.lr, "lr_end": recipe.lr}
        equal["dead_feature_window"] = recipe.dead_after // batch
        if task.kind not in TOLD_K:
            equal |= {"adam_beta1": recipe.beta1, "adam_beta2": recipe.beta2}
    return SAETrainerConfig(
        total_training_samples=task.num_steps * batch,
        train_batch_size_samples=batch,
        lr_warm_up_steps=task.warmup_steps,
        lr_decay_steps=task.decay_steps,
        device=DEVICE,
        logger=LoggingConfig(log_to_wandb=False),
        **equal,
    )


def train(task: Task) -> float:
    """Train one coder and write its weights; the seconds it took."""
    factor = 1.0 if task.setting == "same" else math.sqrt(task.d_in)
    coder = make_coder(task)
    trainer = SAETrainer(make_config(task), coder, iter(()))
    for x_BD in task.batches(factor):
        trainer.step(x_BD)
        trainer.n_training_steps += 1
    with tempfile.TemporaryDirectory() as folder:
        coder.save_inference_model(folder)
        own = SAE.load_from_disk(folder, device=DEVICE).eval()
    if task.kind == GATED:
        gate = own.b_gate, own.r_mag, own.b_mag
        weights = Weights.of_gated(own.W_enc.T, *gate, own.W_dec, own.b_dec)
    else:
        weights = Weights(own.W_enc.T, own.b_enc, own.W_dec, own.b_dec)
        if task.kind == RELU:
            weights.threshold = torch.zeros_like(own.b_enc)
        elif task.kind not in ("topk", ABSTOPK):
            weights.threshold = own.threshold.detach().clamp_min(0.0)
    # a BatchTopK's norms are folded as it is saved
    folded = weights.folded(
        is_pre_bias=True, is_by_norm=task.kind in ("topk", ABSTOPK), factor=factor
    )
    return finish(task, folded, own, factor)
