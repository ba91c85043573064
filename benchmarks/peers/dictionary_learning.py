"""dictionary_learning: its trainers' `update`. It autocasts on GPUs only."""

import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.top_k import TopKTrainer

from benchmarks.measure import DEVICE, arguments, show, threshold_for


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


def main() -> None:
    """Time one case and print it."""
    options = arguments()
    trainer = make_trainer(options.kind, options.num_latents, options.d_in, options.l0)
    x_BD, l0 = options.sample_BD, float(options.l0)
    if options.kind == "jumprelu":
        with torch.no_grad():
            trainer.ae.threshold.fill_(threshold_for(x_BD @ trainer.ae.W_enc, options.l0))
    for step, batch_BD in enumerate(options.clock):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=options.is_bf16):
            trainer.update(step, batch_BD)
    if options.kind == "jumprelu":
        with torch.no_grad():
            l0 = float((trainer.ae.encode(x_BD) > 0).sum(1).float().mean())
    show(options.clock, l0)


if __name__ == "__main__":
    main()
