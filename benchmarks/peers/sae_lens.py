"""SAELens: its `SAETrainer.step`, with its sparse option for TopK and its own autocast."""

import torch
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from benchmarks.measure import (
    BATCH,
    D_IN,
    DEVICE,
    K,
    activations,
    arguments,
    sample,
    show,
    threshold_for,
)

_COEFFICIENT = 0.0006


def make_coder(
    kind: str, num_latents: int, *, is_sparse: bool
) -> TopKTrainingSAE | BatchTopKTrainingSAE | JumpReLUTrainingSAE:
    """Its coder of that kind with its own defaults."""
    common = {"d_in": D_IN, "d_sae": num_latents, "device": DEVICE}
    if kind == "topk":
        config = TopKTrainingSAEConfig(
            **common,
            k=K,
            use_sparse_activations=is_sparse,
            rescale_acts_by_decoder_norm=not is_sparse,  # with both its backward pass fails on CPU
        )
        return TopKTrainingSAE(config)
    if kind == "batchtopk":
        return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**common, k=K))
    coder = JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(**common, l0_coefficient=_COEFFICIENT))
    with torch.no_grad():
        z_BF = coder.encode_with_hidden_pre(sample(activations()[0]))[1]
        coder.threshold.fill_(threshold_for(z_BF))
    return coder


def main() -> None:
    """Time one case and print it."""
    options = arguments()
    coder = make_coder(options.kind, options.num_latents, is_sparse=options.is_sparse)
    config = SAETrainerConfig(
        total_training_samples=BATCH * 1_000_000,
        train_batch_size_samples=BATCH,
        lr=1e-6,
        lr_end=1e-6,  # its default has no warm-up and moves the thresholds within a few steps
        device=DEVICE,
        autocast=options.is_bf16,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer, l0 = SAETrainer(config, coder, iter(())), float(K)
    for x_BD in options.clock:
        trainer.step(x_BD)
        trainer.n_training_steps += 1
    if options.kind == "jumprelu":
        with torch.no_grad():
            l0 = float((coder.encode(sample(activations()[0])) > 0).sum(1).float().mean())
    show(options.clock, l0)


if __name__ == "__main__":
    main()
