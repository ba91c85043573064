"""What all programs that train share: the task, its hyperparameters, and the weights' one form.

Needs torch and safetensors alone.
"""

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH = 1024
NUM_LATENTS, K = 1024, 8
AUX_COEFFICIENT, AUX_K, DEAD_AFTER = 1 / 32, 64, 20_000
MATRYOSHKA, GATED, RELU = "matryoshka_batchtopk", "gated", "relu"
BY_BATCH = ("batchtopk", MATRYOSHKA)
TOLD_K = ("topk", *BY_BATCH)  # the others are steered to an L0
GROUPS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)  # of a Matryoshka coder's latents
_KINDS = (*TOLD_K, "jumprelu", GATED, RELU)
ENCODER_NORM = {kind: 0.1 if kind in TOLD_K else 1.0 for kind in _KINDS}  # at first
_DECAY_SHARE = {kind: 0.5 if kind in TOLD_K else 0.2 for kind in _KINDS}  # then the rate falls
LR = {kind: 0.008 if kind in TOLD_K else 0.005 for kind in _KINDS}
BETA2 = {kind: 0.999 if kind == "topk" else 0.99 for kind in _KINDS}
_WARMUP = {kind: 100 if kind in TOLD_K else 20 for kind in _KINDS}
_SPARSITY_WARMUP = 400
SPARSITY, BANDWIDTH, THRESHOLD = 0.01, 0.06, 0.15  # of JumpReLU
_CHECKED_ROWS = 256


@dataclass
class Task:
    """What to train, on what.

    Attributes:
        kind: one of those below, by this project's names.
        setting: `same`: this project's hyperparameters; `own`: the program's own defaults, where
            it has any; or for this project a precision.
        aim: k, or what others are steered by: a target L0 or a sparsity coefficient.
        x_ND: activations whose E‖x‖² is 1, in the order of training.
        scale: what they were divided by.
        path: where the weights are to go.
        seed: of the first weights.
    """

    kind: str
    setting: str
    aim: float
    x_ND: Tensor
    scale: float
    path: Path
    seed: int
    began: float = field(default_factory=time.perf_counter)

    @property
    def d_in(self) -> int:
        """D."""
        return self.x_ND.shape[1]

    @property
    def num_steps(self) -> int:
        """Steps of the run."""
        return len(self.x_ND) // BATCH

    @property
    def warmup_steps(self) -> int:
        """The first steps, in which the rate rises; a quarter of a very short trial."""
        return min(_WARMUP[self.kind], self.num_steps // 4)

    @property
    def sparsity_warmup_steps(self) -> int:
        """Those in which a penalty rises; most of a very short trial."""
        return min(_SPARSITY_WARMUP, max(self.num_steps * 3 // 5, 1))

    @property
    def decay_share(self) -> float:
        """The last share of the steps, in which the rate falls."""
        return _DECAY_SHARE[self.kind]

    @property
    def decay_steps(self) -> int:
        """These steps."""
        return int(self.decay_share * self.num_steps)

    def batches(self, factor: float = 1.0) -> Iterator[Tensor]:
        """The batches [B, D], times `factor`."""
        for x_BD in self.x_ND.split(BATCH):
            if len(x_BD) == BATCH:
                yield x_BD.to(DEVICE) * factor


@dataclass
class Weights:
    """A trained coder: z = W_enc x + b_enc, f = z where it may fire, ŷ = W_decᵀ f + b_dec.

    With a `threshold` that is where z > θ, without where z is among the row's k largest and > 0.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor | None = None

    @torch.no_grad()
    def folded(
        self, *, is_pre_bias: bool, is_by_norm: bool = False, factor: float = 1.0
    ) -> "Weights":
        """The same coder without b_dec before the encoder, norms in the selection, or a scale.

        Args:
            is_pre_bias: b_dec was subtracted from the input.
            is_by_norm: z was multiplied by the rows' norms of W_dec for the selection, and the
                activations divided by them again.
            factor: by which the input was multiplied in training.
        """
        norm_F1 = self.W_dec.norm(dim=1, keepdim=True) if is_by_norm else 1.0
        b_enc_F = self.b_enc - self.W_enc @ self.b_dec if is_pre_bias else self.b_enc
        norm_F = self.W_dec.norm(dim=1) if is_by_norm else 1.0
        return Weights(
            self.W_enc * norm_F1,
            b_enc_F * norm_F / factor,
            self.W_dec / norm_F1,
            self.b_dec / factor,
            None if self.threshold is None else (self.threshold / factor).clamp_min(0.0),
        )

    @staticmethod
    def of_gated(
        W_enc: Tensor, gate: Tensor, r_mag: Tensor, mag: Tensor, W_dec: Tensor, b_dec: Tensor
    ) -> "Weights":
        """Those of the JumpReLU that a Gated coder equals: exp(r) u + mag where u + gate > 0."""
        scale_F = r_mag.exp()
        threshold_F = (mag - scale_F * gate).clamp_min(0.0)
        return Weights(W_enc * scale_F[:, None], mag, W_dec, b_dec, threshold_F)

    def reconstruct(self, x_BD: Tensor, k: int) -> Tensor:
        """ŷ [B, D], densely."""
        z_BF = x_BD @ self.W_enc.T + self.b_enc
        if self.threshold is not None:
            acts_BF = torch.where(z_BF > self.threshold, z_BF, 0.0)
        else:
            values, chosen = z_BF.relu().topk(k, dim=1)
            acts_BF = torch.zeros_like(z_BF).scatter(1, chosen, values)
        return acts_BF @ self.W_dec + self.b_dec


def train_program(
    module: str, kind: str, setting: str, aim: float, seed: int, data: str, to: str
) -> dict[str, float]:
    """Let `benchmarks.trained.MODULE` train on `data` and write its weights; its seconds."""
    torch.manual_seed(seed)
    given = load_file(data)
    task = Task(kind, setting, aim, given["train"], float(given["scale"]), Path(to), seed)
    train = importlib.import_module(f"benchmarks.trained.{module}").train
    return {"seconds": train(task)}


@torch.no_grad()
def finish(task: Task, weights: Weights, own: Callable[[Tensor], Tensor], factor: float) -> float:
    """Write the weights, once they are seen to give what the program's own coder gives.

    Returns the seconds that training took.

    Args:
        task: done.
        weights: folded, for x.
        own: the program's reconstruction of `factor` · x, for inference.
        factor: by which x was multiplied in training.

    Raises:
        RuntimeError: the two differ on more than one row in a hundred (where rounding may change
            which latents fire).
    """
    seconds = time.perf_counter() - task.began
    x_BD = task.x_ND[:_CHECKED_ROWS].to(DEVICE)
    expected_BD = own(x_BD * factor) / factor
    error_B = (weights.reconstruct(x_BD, int(task.aim)) - expected_BD).norm(dim=1)
    share = float((error_B > 1e-3 * expected_BD.norm(dim=1)).float().mean())
    if share > 0.01:
        raise RuntimeError(f"the weights do not give the coder: {share:.0%} of rows differ")
    tensors = {name: value for name, value in vars(weights).items() if value is not None}
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, task.path
    )
    return seconds
