"""dictionary_learning: its trainers' `update`, on activations of E‖x‖² = 1, as it wants them.

`own` takes its default rates, bandwidth, penalty and first threshold.
"""

from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.top_k import TopKTrainer

from benchmarks.trained.task import (
    AUX_COEFFICIENT,
    AUX_K,
    BANDWIDTH,
    DEAD_AFTER,
    DEVICE,
    LR,
    NUM_LATENTS,
    SPARSITY,
    THRESHOLD,
    Task,
    Weights,
    finish,
)


def make_trainer(task: Task) -> TopKTrainer | JumpReluTrainer:
    """Its trainer of that kind."""
    is_same = task.setting == "same"
    common = {
        "steps": task.num_steps,
        "activation_dim": task.d_in,
        "dict_size": NUM_LATENTS,
        "layer": 0,
        "lm_name": "none",
        "device": DEVICE,
        "warmup_steps": task.warmup_steps,
        "decay_start": task.num_steps - task.decay_steps,
    }
    if is_same:
        common["lr"] = LR[task.kind]
    if task.kind == "jumprelu":
        # its penalty s (L0/L0* - 1)² is this project's λ (2/L0*) (L0 - L0*)² for s = 2 λ L0*
        if is_same:
            common |= {"bandwidth": BANDWIDTH, "sparsity_penalty": 2 * SPARSITY * task.aim}
        common |= {"sparsity_warmup_steps": task.sparsity_warmup_steps, "target_l0": task.aim}
        trainer = JumpReluTrainer(**common)
        if is_same:
            trainer.ae.threshold.data.fill_(THRESHOLD)
        return trainer
    trainer = TopKTrainer(**common, k=int(task.aim), auxk_alpha=AUX_COEFFICIENT)
    if is_same:
        trainer.dead_feature_threshold, trainer.top_k_aux = DEAD_AFTER, AUX_K
    return trainer


def train(task: Task) -> float:
    """Train one coder and write its weights; the seconds it took."""
    trainer = make_trainer(task)
    for step, x_BD in enumerate(task.batches()):
        trainer.update(step, x_BD)
    ae = trainer.ae
    if task.kind == "jumprelu":
        weights = Weights(ae.W_enc.T, ae.b_enc, ae.W_dec, ae.b_dec, ae.threshold)
    else:
        weights = Weights(ae.encoder.weight, ae.encoder.bias, ae.decoder.weight.T, ae.b_dec)
    return finish(task, weights.folded(is_pre_bias=task.kind != "jumprelu"), ae, 1.0)
