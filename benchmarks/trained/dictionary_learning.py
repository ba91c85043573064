"""dictionary_learning: its trainers' `update`, on activations of E‖x‖² = 1, as it wants them.

`own` takes its default rates, bandwidth, penalty and first threshold.
"""

from typing import Any

from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate
from dictionary_learning.trainers.top_k import TopKTrainer

from benchmarks.trained.task import (
    BY_BATCH,
    DEVICE,
    GATED,
    GROUPS,
    MATRYOSHKA,
    RELU,
    Task,
    Weights,
    finish,
)

_PRICED = {GATED: GatedSAETrainer, RELU: StandardTrainerAprilUpdate}


def make_trainer(task: Task) -> Any:
    """Its trainer of that kind."""
    is_same, recipe = task.setting == "same", task.recipe
    common = {
        "steps": task.num_steps,
        "activation_dim": task.d_in,
        "dict_size": task.setup.num_latents,
        "layer": 0,
        "lm_name": "none",
        "device": DEVICE,
        "warmup_steps": task.warmup_steps,
        "decay_start": task.num_steps - task.decay_steps,
    }
    if is_same:
        common["lr"] = recipe.lr
    if task.kind == "jumprelu":
        # its penalty s (L0/L0* - 1)² is this project's λ (2/L0*) (L0 - L0*)² for s = 2 λ L0*
        if is_same:
            common["bandwidth"] = recipe.bandwidth
            common["sparsity_penalty"] = 2 * recipe.sparsity * task.aim
        common |= {"sparsity_warmup_steps": task.sparsity_warmup_steps, "target_l0": task.aim}
        trainer = JumpReluTrainer(**common)
        if is_same:
            trainer.ae.threshold.data.fill_(recipe.threshold)
        return trainer
    if task.kind in _PRICED:
        common |= {"sparsity_warmup_steps": task.sparsity_warmup_steps, "l1_penalty": task.aim}
        return _PRICED[task.kind](**common)
    common |= {"k": int(task.aim), "auxk_alpha": recipe.aux_coefficient}
    if task.kind in BY_BATCH:
        common["threshold_start_step"] = task.num_steps // 2  # its 1,000 are more than there are
    if task.kind == MATRYOSHKA:
        trainer = MatryoshkaBatchTopKTrainer(**common, group_fractions=list(GROUPS))
    else:
        trainer = (TopKTrainer if task.kind == "topk" else BatchTopKTrainer)(**common)
    if is_same:
        trainer.dead_feature_threshold = recipe.dead_after
        trainer.top_k_aux = recipe.aux_k
    return trainer


def train(task: Task) -> float:
    """Train one coder and write its weights; the seconds it took."""
    trainer = make_trainer(task)
    for step, x_BD in enumerate(task.batches()):
        trainer.update(step, x_BD)
    ae = trainer.ae
    if task.kind == GATED:
        own = ae.encoder.weight, ae.gate_bias, ae.r_mag, ae.mag_bias
        weights = Weights.of_gated(*own, ae.decoder.weight.T, ae.decoder_bias)
    elif task.kind in ("jumprelu", MATRYOSHKA):
        threshold_F = ae.threshold.expand(task.setup.num_latents)
        weights = Weights(ae.W_enc.T, ae.b_enc, ae.W_dec, ae.b_dec, threshold_F)
    else:
        b_dec = ae.bias if task.kind == RELU else ae.b_dec
        weights = Weights(ae.encoder.weight, ae.encoder.bias, ae.decoder.weight.T, b_dec)
        if task.kind != "topk":
            threshold = ae.threshold if task.kind == "batchtopk" else ae.bias.new_zeros(())
            weights.threshold = threshold.expand(task.setup.num_latents)
    return finish(task, weights.folded(is_pre_bias=task.kind != "jumprelu"), ae, 1.0)
