"""What optimizers share, what is asked of each, and all of them by name.

An optimizer is one file in `train/optimizers/` with one subclass of `OptimConfig`: its settings are
the fields, and what it remembers, does and costs are the methods.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sae_dist.common.registry import Registry
from sae_dist.common.settings import setting
from sae_dist.parallel.cost import UpdateCost

if TYPE_CHECKING:
    from torch import Tensor

    from sae_dist.train.optimizers.optimizer import Step


@dataclass(kw_only=True)
class OptimConfig:
    """The schedule of a training, whatever its optimizer (`optim=NAME` chooses one).

    `scale_lr_by_width` divides `lr` by √(F / 2¹⁴). The rate rises along a cosine from
    `warmup_start · lr` over `warmup_steps`, stays, and falls linearly to 0 over the last
    `decay_share` of the run. λ rises linearly from 0 over `sparsity_warmup_steps`.
    `clip_norm` bounds the norm of the whole coder's gradient. With `ema_decay` an exponential
    average of the weights is kept, and is what training gives in the end (Gao et al. 2024's code
    takes 0.999). The defaults are Gemma Scope's (Lieberum et al. 2024, section 3.2).
    """

    name: str = field(default="", init=False)
    lr: float = setting(7e-5, above=0)
    scale_lr_by_width: bool = False
    warmup_steps: int = setting(1000, min=0)
    warmup_start: float = setting(0.1, min=0, max=1)
    decay_share: float = setting(0.0, min=0, max=1)
    sparsity_warmup_steps: int = setting(10_000, min=0)
    clip_norm: float | None = setting(None, above=0)
    ema_decay: float | None = setting(None, above=0, below=1)

    def first_state(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        """What is remembered of a parameter before the first step, by names of its own.

        Each tensor has a row where the parameter has one.
        """
        raise NotImplementedError

    def update(self, step: Step) -> None:
        """Take the step of one parameter, without gradient."""
        raise NotImplementedError

    @property
    def moves_fired_rows_alone(self) -> bool:
        """Whether a row of the matrices without gradient stays as it is."""
        return False

    @property
    def takes_places(self) -> bool:
        """Whether the matrices' gradients may be those of some rows, of number F where they are
        none, if all others' are 0.
        """
        return False

    @property
    def num_moments(self) -> int:
        """How many numbers are remembered of each weight of a matrix."""
        return 1

    def cost(self, num_latents: int, d_in: int, d_out: int) -> UpdateCost:
        """What updates of W_enc and W_dec take."""
        return UpdateCost(num_kept=self.num_moments + (self.ema_decay is not None))


OPTIMIZERS = Registry(
    "optimizer",
    OptimConfig,
    key="name",
    group="sae_dist.optimizers",
    ours={
        "adam": "sae_dist.train.optimizers.adam:Adam",
        "signum": "sae_dist.train.optimizers.signum:Signum",
        "muon": "sae_dist.train.optimizers.muon:Muon",
    },
)
