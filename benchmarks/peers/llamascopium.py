"""Llamascopium: its `Trainer.fit`, with its own autocast, and on GPUs its sparse decoder.

Of `fit`, the statistics that it logs are left out (`skip_metrics_calculation`): they are no part of
a training step.
"""

import math
import tempfile
from collections.abc import Iterator

import torch
from llamascopium.models.sae import SAEConfig, SparseAutoEncoder
from llamascopium.trainer import Trainer, TrainerConfig
from torch import Tensor

from benchmarks.timing import DEVICE, Case, Clock, threshold_for

_SITE = "x"


def as_batch(x_BD: Tensor) -> dict[str, Tensor]:
    """Activations as its trainer takes them."""
    ones = torch.ones(len(x_BD), device=DEVICE)
    return {_SITE: x_BD, "tokens": ones.long(), "mask": ones.bool()}


class Stream:
    """Batches for `fit`, which looks at one before it begins to train."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.is_looked_at = clock, False

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if not self.is_looked_at:
            self.is_looked_at = True
            return iter([as_batch(self.clock.batches[0])])
        return (as_batch(x_BD) for x_BD in self.clock)


def make_coder(case: Case) -> SparseAutoEncoder:
    """Its coder of that kind, uniform weights, thresholds set."""
    config = SAEConfig(
        hook_point_in=_SITE,
        hook_point_out=_SITE,
        d_model=case.d_in,
        expansion_factor=case.num_latents / case.d_in,
        act_fn=case.kind,
        norm_activation="token-wise",
        top_k=case.l0,
        use_triton_kernel=case.is_sparse,
        jumprelu_threshold_window=0.05,
        device=DEVICE,
        dtype=torch.float32,
    )
    coder = SparseAutoEncoder(config)
    bound = 1 / math.sqrt(case.d_in)
    coder.init_parameters(
        encoder_uniform_bound=bound,
        decoder_uniform_bound=bound,
        init_log_jumprelu_threshold_value=0,
    )
    coder.set_decoder_to_fixed_norm(1.0, force_exact=True)
    coder.init_encoder_with_decoder_transpose()
    if case.kind == "jumprelu":
        threshold = threshold_for(pre_activations(coder, case.sample_BD), case.l0)
        coder.activation_function.log_jumprelu_threshold.data.fill_(math.log(threshold))
    return coder


@torch.no_grad()
def pre_activations(coder: SparseAutoEncoder, x_BD: Tensor) -> Tensor:
    """z [b, F] of some rows, as its JumpReLU compares it with the threshold."""
    x_BD = coder.normalize_activations(as_batch(x_BD))[_SITE]
    return (x_BD @ coder.W_E + coder.b_E) * coder.decoder_norm()


def time_steps(case: Case) -> dict[str, float]:
    """Take the steps of its clock."""
    coder = make_coder(case)
    with tempfile.TemporaryDirectory() as folder:
        config = TrainerConfig(
            amp_dtype=torch.bfloat16 if case.is_bf16 else torch.float32,
            sparsity_loss_type="tanh" if case.kind == "jumprelu" else None,
            initial_k=case.l0,
            total_training_tokens=case.batch * 1_000_000,
            n_checkpoints=0,
            skip_metrics_calculation=True,
            exp_result_path=folder,
        )
        Trainer(config).fit(coder, Stream(case.clock))
    l0 = float(case.l0)
    if case.kind == "jumprelu":
        threshold = coder.activation_function.get_jumprelu_threshold()
        l0 = float((pre_activations(coder, case.sample_BD) > threshold).sum(1).float().mean())
    return {"l0": l0}
