"""dictionary_learning: its trainers' `update`. It autocasts on GPUs only."""

import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.top_k import TopKTrainer

from benchmarks.timing import DEVICE, Case, threshold_for


def make_trainer(
    kind: str, num_latents: int, d_in: int, l0: int
) -> TopKTrainer | BatchTopKTrainer | JumpReluTrainer:
    """Its trainer of that kind with its own defaults."""
    common = {
        "steps": 1_000_000,
        "activation_dim": d_in,
        "dict_size": num_latents,
        "layer": 0,
        "lm_name": "none",
        "device": DEVICE,
    }
    if kind == "jumprelu":
        return JumpReluTrainer(**common, target_l0=float(l0))
    return {"topk": TopKTrainer, "batchtopk": BatchTopKTrainer}[kind](**common, k=l0)


def time_steps(case: Case) -> dict[str, float]:
    """Take the steps of its clock."""
    trainer = make_trainer(case.kind, case.num_latents, case.d_in, case.l0)
    x_BD, l0 = case.sample_BD, float(case.l0)
    if case.kind == "jumprelu":
        with torch.no_grad():
            trainer.ae.threshold.fill_(threshold_for(x_BD @ trainer.ae.W_enc, case.l0))
    for step, batch_BD in enumerate(case.clock):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=case.is_bf16):
            trainer.update(step, batch_BD)
    if case.kind == "jumprelu":
        with torch.no_grad():
            l0 = float((trainer.ae.encode(x_BD) > 0).sum(1).float().mean())
    return {"l0": l0}
