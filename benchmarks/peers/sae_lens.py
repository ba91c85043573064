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

from benchmarks.timing import DEVICE, Case, threshold_for

_COEFFICIENT = 0.0006


def make_coder(
    case: Case,
) -> TopKTrainingSAE | BatchTopKTrainingSAE | JumpReLUTrainingSAE:
    """Its coder of that kind with its own defaults."""
    kind, is_sparse = case.kind, case.is_sparse
    common = {"d_in": case.d_in, "d_sae": case.num_latents, "device": DEVICE}
    if kind == "topk":
        config = TopKTrainingSAEConfig(
            **common,
            k=case.l0,
            use_sparse_activations=is_sparse,
            rescale_acts_by_decoder_norm=not is_sparse,  # with both its backward pass fails on CPU
        )
        return TopKTrainingSAE(config)
    if kind == "batchtopk":
        return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**common, k=case.l0))
    coder = JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(**common, l0_coefficient=_COEFFICIENT))
    with torch.no_grad():
        z_BF = coder.encode_with_hidden_pre(case.sample_BD)[1]
        coder.threshold.fill_(threshold_for(z_BF, case.l0))
    return coder


def time_steps(case: Case) -> dict[str, float]:
    """Take the steps of its clock."""
    coder = make_coder(case)
    config = SAETrainerConfig(
        total_training_samples=case.batch * 1_000_000,
        train_batch_size_samples=case.batch,
        lr=1e-6,
        lr_end=1e-6,  # its default has no warm-up and moves the thresholds within a few steps
        device=DEVICE,
        autocast=case.is_bf16,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer, l0 = SAETrainer(config, coder, iter(())), float(case.l0)
    for x_BD in case.clock:
        trainer.step(x_BD)
        trainer.n_training_steps += 1
    if case.kind == "jumprelu":
        with torch.no_grad():
            l0 = float((coder.encode(case.sample_BD) > 0).sum(1).float().mean())
    return {"l0": l0}
