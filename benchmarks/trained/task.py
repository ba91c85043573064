"""What all programs that train share: the task, its hyperparameters, and the weights' one form.

Needs torch and safetensors alone.
"""

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
AUX_COEFFICIENT = 1 / 32
MATRYOSHKA, GATED, RELU, ABSTOPK = "matryoshka_batchtopk", "gated", "relu", "abstopk"
BY_BATCH = ("batchtopk", MATRYOSHKA)
TOLD_K = ("topk", *BY_BATCH, "hierarchical_topk", ABSTOPK)  # the others are steered to an L0
GROUPS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)  # of a Matryoshka coder's latents
AUTOENCODER, TRANSCODER, SKIP = "autoencoder", "transcoder", "skip_transcoder"
_CHECKED_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one kind is trained; what another kind has is not read.

    Attributes:
        lr, beta1, beta2, eps, clip_norm: of Adam.
        warmup_steps: the first, in which the rate rises.
        decay_share: of the steps, the last, in which it falls to 0.
        encoder_norm: of the encoder's rows at first.
        aux_coefficient, aux_k, dead_after: of AuxK, and after how many silent tokens it counts.
        sparsity, bandwidth, threshold: of JumpReLU: λ, ε and the first θ.
        initial_l0: of what begins where every latent fires alike.
        sparsity_warmup_steps: in which a penalty rises.
    """

    lr: float
    beta1: float = 0.0
    beta2: float = 0.99
    eps: float = 1e-8
    clip_norm: float | None = None
    warmup_steps: int = 20
    decay_share: float = 0.2
    encoder_norm: float = 1.0
    aux_coefficient: float = AUX_COEFFICIENT
    aux_k: int = 64
    dead_after: int = 20_000
    sparsity: float = 0.01
    bandwidth: float = 0.06
    threshold: float = 0.15
    initial_l0: float = 100.0
    sparsity_warmup_steps: int = 400


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Sizes and recipes that a benchmark gives all programs.

    Attributes:
        num_latents, k, batch: F, k or the L0 to compare at, and B.
        recipes: by kind, with its form behind it where that is no autoencoder.
        products: torch's precision of the peers' float32 products.
    """

    num_latents: int
    k: int
    batch: int
    recipes: Mapping[str, Recipe]
    products: str = "highest"


def _recipes(told_k: Recipe, steered: Recipe) -> dict[str, Recipe]:
    """Those of all kinds of autoencoders."""
    by_row = replace(told_k, beta2=0.999, eps=6.25e-10)
    found = {kind: told_k if kind in BY_BATCH else by_row for kind in TOLD_K}
    return found | dict.fromkeys(("jumprelu", GATED, RELU), steered)


_TOY_TOLD_K = Recipe(
    lr=0.008, beta1=0.9, clip_norm=1.0, warmup_steps=100, decay_share=0.5, encoder_norm=0.1
)
_REAL_TOLD_K = replace(_TOY_TOLD_K, lr=0.002, aux_k=512, dead_after=200_000)
_REAL_STEERED = Recipe(lr=0.002, threshold=0.02)
_REAL_TRANSCODER = replace(
    _REAL_TOLD_K,
    beta2=0.999,
    eps=6.25e-10,
    clip_norm=None,
    decay_share=0.8,
    encoder_norm=1.0,
    aux_coefficient=0.0,
)
SETUPS = {
    "toy": Setup(
        num_latents=1024, k=8, batch=1024, recipes=_recipes(_TOY_TOLD_K, Recipe(lr=0.005))
    ),
    "real": Setup(
        num_latents=8192,
        k=32,
        batch=2048,
        recipes=_recipes(_REAL_TOLD_K, _REAL_STEERED)
        | {
            f"topk_{TRANSCODER}": _REAL_TRANSCODER,
            f"topk_{SKIP}": _REAL_TRANSCODER,
            f"jumprelu_{TRANSCODER}": _REAL_STEERED,
        },
        products="medium",
    ),
}


def kind_and_form(name: str) -> tuple[str, str]:
    """What `topk_skip_transcoder` is; a kind alone is an autoencoder."""
    for form in (SKIP, TRANSCODER):
        if name.endswith(f"_{form}"):
            return name.removesuffix(f"_{form}"), form
    return name, AUTOENCODER


@dataclass
class Task:
    """What to train, on what.

    Attributes:
        name: of the kind, by this project's names, with its form.
        setting: `same`: this project's hyperparameters; `own`: the program's own defaults, where
            it has any; or for this project a precision.
        aim: k, or what others are steered by: a target L0 or a sparsity coefficient.
        setup: sizes and hyperparameters.
        x_ND, y_NE: activations in the order of training, and what is to be reconstructed from them.
        scale, target_scale: what they are divided by, so that E‖x‖² and E‖y‖² are 1.
        path: where the weights are to go.
        seed: of the first weights.
    """

    name: str
    setting: str
    aim: float
    setup: Setup
    x_ND: Tensor
    y_NE: Tensor
    scale: float
    target_scale: float
    path: Path
    seed: int
    began: float = field(default_factory=time.perf_counter)

    @property
    def kind(self) -> str:
        """Without the form."""
        return kind_and_form(self.name)[0]

    @property
    def form(self) -> str:
        """One of the three above."""
        return kind_and_form(self.name)[1]

    @property
    def recipe(self) -> Recipe:
        """The hyperparameters of its kind."""
        return self.setup.recipes[self.name]

    @property
    def d_in(self) -> int:
        """D."""
        return self.x_ND.shape[1]

    @property
    def d_out(self) -> int:
        """E."""
        return self.y_NE.shape[1]

    @property
    def num_steps(self) -> int:
        """Steps of the run."""
        return len(self.x_ND) // self.setup.batch

    @property
    def warmup_steps(self) -> int:
        """The first steps, in which the rate rises; a quarter of a very short trial."""
        return min(self.recipe.warmup_steps, self.num_steps // 4)

    @property
    def sparsity_warmup_steps(self) -> int:
        """Those in which a penalty rises; most of a very short trial."""
        return min(self.recipe.sparsity_warmup_steps, max(self.num_steps * 3 // 5, 1))

    @property
    def decay_steps(self) -> int:
        """The last, in which the rate falls."""
        return int(self.recipe.decay_share * self.num_steps)

    def first(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """The first inputs and targets [n, D], [n, E], each divided by its C."""
        return self._pair(slice(num_rows), 1.0, 1.0)

    def pairs(
        self, factor: float = 1.0, target_factor: float | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of inputs and targets [B, D], [B, E], each divided by its C, times a factor;
        one for both, or each its own.
        """
        size = self.setup.batch
        factors = factor, factor if target_factor is None else target_factor
        for step in range(self.num_steps):
            yield self._pair(slice(step * size, (step + 1) * size), *factors)

    def batches(self, factor: float = 1.0) -> Iterator[Tensor]:
        """The inputs alone."""
        return (x_BD for x_BD, _ in self.pairs(factor))

    def _pair(self, rows: slice, factor: float, target_factor: float) -> tuple[Tensor, Tensor]:
        x_BD = self.x_ND[rows].to(DEVICE).float() / self.scale * factor
        if self.form == AUTOENCODER:
            return x_BD, x_BD
        return x_BD, self.y_NE[rows].to(DEVICE).float() / self.target_scale * target_factor


@dataclass
class Weights:
    """A trained coder: z = W_enc x + b_enc, f = z where it may fire, ŷ = W_decᵀ f + b_dec.

    With a `threshold` that is where z > θ, without where z is among the row's k largest and > 0.
    A skip transcoder adds W_skip x.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor | None = None
    W_skip: Tensor | None = None

    @torch.no_grad()
    def folded(
        self,
        *,
        is_pre_bias: bool,
        is_by_norm: bool = False,
        factor: float = 1.0,
        target_factor: float | None = None,
    ) -> "Weights":
        """The same coder without b_dec before the encoder, norms in the selection, or a scale.

        Args:
            is_pre_bias: b_dec was subtracted from the input.
            is_by_norm: z was multiplied by the rows' norms of W_dec for the selection, and the
                activations divided by them again.
            factor: by which input and target were multiplied in training.
            target_factor: that of the target, if it was another.
        """
        norm_F1 = self.W_dec.norm(dim=1, keepdim=True) if is_by_norm else 1.0
        b_enc_F = self.b_enc
        if is_pre_bias:  # whatever torch's precision of float32 products is
            b_enc_F = b_enc_F - (self.W_enc.double() @ self.b_dec.double()).float()
        norm_F = self.W_dec.norm(dim=1) if is_by_norm else 1.0
        target_factor = factor if target_factor is None else target_factor
        ratio = factor / target_factor
        return Weights(
            self.W_enc * norm_F1,
            b_enc_F * norm_F / factor,
            self.W_dec / norm_F1 * ratio,
            self.b_dec / target_factor,
            None if self.threshold is None else (self.threshold / factor).clamp_min(0.0),
            None if self.W_skip is None else self.W_skip * ratio,
        )

    @staticmethod
    def of_gated(
        W_enc: Tensor, gate: Tensor, r_mag: Tensor, mag: Tensor, W_dec: Tensor, b_dec: Tensor
    ) -> "Weights":
        """Those of the JumpReLU that a Gated coder equals: exp(r) u + mag where u + gate > 0."""
        scale_F = r_mag.exp()
        threshold_F = (mag - scale_F * gate).clamp_min(0.0)
        return Weights(W_enc * scale_F[:, None], mag, W_dec, b_dec, threshold_F)

    def reconstruct(self, x_BD: Tensor, k: int, *, is_signed: bool = False) -> Tensor:
        """ŷ [B, E], densely; where it is signed, the k largest in size fire."""
        z_BF = x_BD @ self.W_enc.T + self.b_enc
        if self.threshold is not None:
            acts_BF = torch.where(z_BF > self.threshold, z_BF, 0.0)
        else:
            size_BF = z_BF.abs() if is_signed else z_BF.relu()
            values, chosen = size_BF.topk(k, dim=1)
            if is_signed:
                values = z_BF.gather(1, chosen)
            acts_BF = torch.zeros_like(z_BF).scatter(1, chosen, values)
        y_BE = acts_BF @ self.W_dec + self.b_dec
        return y_BE if self.W_skip is None else y_BE + x_BD @ self.W_skip.T


def train_program(
    module: str, setup: str, name: str, setting: str, aim: float, seed: int, data: str, to: str
) -> dict[str, float]:
    """Let `benchmarks.trained.MODULE` train on `data` and write its weights.

    Returns:
        the seconds that training took, and those of a processor, which tell more on a machine that
        is shared.
    """
    train = importlib.import_module(f"benchmarks.trained.{module}").train
    torch.manual_seed(seed)
    given = load_file(data)
    x_ND = given["train"]
    y_NE = given.get("train_target", x_ND)
    scales = (float(given[key]) for key in ("scale", "target_scale"))
    task = Task(name, setting, aim, SETUPS[setup], x_ND, y_NE, *scales, Path(to), seed)
    torch.set_float32_matmul_precision(task.setup.products)
    began = time.process_time()
    return {"seconds": train(task), "processor_seconds": time.process_time() - began}


@torch.no_grad()
def finish(
    task: Task,
    weights: Weights,
    own: Callable[[Tensor], Tensor],
    factor: float,
    target_factor: float | None = None,
) -> float:
    """Write the weights, once they are seen to give what the program's own coder gives.

    Returns the seconds that training took.

    Args:
        task: done.
        weights: folded, for x.
        own: the program's reconstruction of `factor` · x, for inference.
        factor: by which input and target were multiplied in training.
        target_factor: that of the target, if it was another.

    Raises:
        RuntimeError: the two differ on more than one row in a hundred (where rounding may change
            which latents fire).
    """
    seconds = time.perf_counter() - task.began
    torch.set_float32_matmul_precision("highest")
    x_BD, _ = task.first(_CHECKED_ROWS)
    expected_BE = own(x_BD * factor) / (factor if target_factor is None else target_factor)
    found_BE = weights.reconstruct(x_BD, int(task.aim), is_signed=task.kind == ABSTOPK)
    error_B = (found_BE - expected_BE).norm(dim=1)
    share = float((error_B > 1e-3 * expected_BE.norm(dim=1)).float().mean())
    if share > 0.01:
        raise RuntimeError(f"the weights do not give the coder: {share:.0%} of rows differ")
    tensors = {name: value for name, value in vars(weights).items() if value is not None}
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, task.path
    )
    return seconds
