"""What optimizers can be told: what all of them share, and what each has of its own."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from sae_dist.common.errors import UserError
from sae_dist.common.settings import setting
from sae_dist.parallel.cost import UpdateCost


def _only(name: str) -> Callable[[str, str], None]:
    def check(key: str, value: str) -> None:
        if value != name:
            raise UserError(f"{key}={value}; expected {name}; choose an optimizer with optim=…")

    return check


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """The schedule of a training, whatever its optimizer (`optim=NAME` chooses one).

    `scale_lr_by_width` divides `lr` by √(F / 2¹⁴). The rate rises along a cosine from
    `warmup_start · lr` over `warmup_steps`, stays, and falls linearly to 0 over the last
    `decay_share` of the run. λ rises linearly from 0 over `sparsity_warmup_steps`.
    `clip_norm` bounds the norm of the whole coder's gradient. With `ema_decay` an exponential
    average of the weights is kept, and is what training gives in the end (Gao et al. 2024's code
    takes 0.999). The defaults are Gemma Scope's (Lieberum et al. 2024, section 3.2).
    """

    name: str = ""
    lr: float = setting(7e-5, above=0)
    scale_lr_by_width: bool = False
    warmup_steps: int = setting(1000, min=0)
    warmup_start: float = setting(0.1, min=0, max=1)
    decay_share: float = setting(0.0, min=0, max=1)
    sparsity_warmup_steps: int = setting(10_000, min=0)
    clip_norm: float | None = setting(None, above=0)
    ema_decay: float | None = setting(None, above=0, below=1)

    @property
    def num_moments(self) -> int:
        """How many numbers are remembered of each weight of a matrix."""
        return 1

    @property
    def moves_fired_rows_alone(self) -> bool:
        """Whether a row of the matrices without gradient stays as it is."""
        return False

    def cost(self, num_latents: int, d_in: int, d_out: int) -> UpdateCost:
        """What updates of W_enc and W_dec take."""
        return UpdateCost(num_kept=self.num_moments + (self.ema_decay is not None))


@dataclass(kw_only=True, slots=True)
class AdamConfig(OptimConfig):
    """Adam (Kingma & Ba 2015). With `beta1` = 0 it keeps no first moment.

    Gemma Scope's settings are the defaults (Lieberum et al. 2024, section 3.2).
    """

    name: str = setting("adam", check=_only("adam"))
    beta1: float = setting(0.0, min=0, below=1)
    beta2: float = setting(0.999, min=0, below=1)
    eps: float = setting(1e-8, above=0)

    @property
    def num_moments(self) -> int:
        """See `OptimConfig`."""
        return 2 if self.beta1 else 1

    @property
    def moves_fired_rows_alone(self) -> bool:
        """See `OptimConfig`: the second moment's decay is made up for later."""
        return not self.beta1


@dataclass(kw_only=True, slots=True)
class SignumConfig(OptimConfig):
    """Signum: every weight moves by `lr`, against the sign of its gradient's running mean.

    Bernstein et al. 2018, algorithm 2. `lr` is Adam's 2e-4 / √(F / 2¹⁴), as no published coder was
    trained with it: sparsify's signum is schedule-free, with another rate.
    """

    name: str = setting("signum", check=_only("signum"))
    lr: float = setting(2e-4, above=0)
    scale_lr_by_width: bool = True
    momentum: float = setting(0.9, min=0, below=1)

    @property
    def num_moments(self) -> int:
        """See `OptimConfig`."""
        return 1 if self.momentum else 0

    @property
    def moves_fired_rows_alone(self) -> bool:
        """See `OptimConfig`."""
        return not self.momentum


@dataclass(kw_only=True, slots=True)
class MuonConfig(OptimConfig):
    """Muon (Jordan et al. 2024): a matrix moves along its momentum, made orthogonal.

    `newton_schulz_steps` of the quintic iteration do that, `weight_decay` shrinks the matrices by
    lr · weight_decay at each step. A matrix [F, D] takes 0.2 √max(F, D) · lr (Liu et al. 2025),
    vectors Adam's step with β 0.9 and 0.999. Defaults and rate are sparsify's for its transcoders
    (Paulo et al. 2025), whose momentum is Nesterov's, as here.
    """

    name: str = setting("muon", check=_only("muon"))
    lr: float = setting(2e-3, above=0)
    momentum: float = setting(0.95, min=0, below=1)
    newton_schulz_steps: int = setting(5, min=1)
    weight_decay: float = setting(0.1, min=0)

    def cost(self, num_latents: int, d_in: int, d_out: int) -> UpdateCost:
        """See `OptimConfig`: a Gram matrix each, the update, and four products of D × D a step."""
        widths = d_in, d_out
        flops = sum(
            4.0 * num_latents * D**2 + 8.0 * self.newton_schulz_steps * D**3 for D in widths
        )
        sums = tuple(D**2 for D in widths)
        return replace(OptimConfig.cost(self, num_latents, d_in, d_out), sums=sums, flops=flops)


OPTIMIZERS: dict[str, type] = {"adam": AdamConfig, "signum": SignumConfig, "muon": MuonConfig}
"""What `optim=NAME` chooses."""
