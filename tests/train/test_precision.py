"""bfloat16 selects nearly what float32 does, and learns as well."""

import torch

from sae_dist.coders import kind_names
from sae_dist.parallel import World, make_mesh
from sae_dist.train.config import Adam, Precision, RungConfig
from sae_dist.train.rows import SharedRows
from sae_dist.train.rung import Rung
from sae_dist.train.step import training_step
from tests.coders.kinds import config_of_kind
from tests.processes import alone

D, F, B, NUM_STEPS = 32, 256, 512, 60


def activations() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(64, D, generator=generator)
    weights = torch.rand(B, 64, generator=generator)
    return (weights * (weights > 0.9)) @ directions


def train(kind: str, precision: Precision, world: World) -> tuple[float, float]:
    config = RungConfig(
        name="rung",
        site="x",
        target="x",
        coder=config_of_kind(kind, num_latents=F, k=8),
        optim=Adam(lr=3e-3, beta1=0.0 if kind == "jumprelu" else 0.9, warmup_steps=1),
    )
    x_BD = activations()
    mean_square = float(x_BD.square().sum(1).mean())
    rung = Rung(config, make_mesh(world, 1, {}), mean_square, D, D, precision, torch.device("cpu"))
    rung.initialise(0, x_BD, x_BD)
    for step in range(NUM_STEPS):
        batch = SharedRows({"x": x_BD}, torch.float32)
        forward = training_step(rung, batch, step, NUM_STEPS).forward
    return float(forward.fvu), float(forward.l0)


def test_bfloat16_reaches_float32s_fvu_at_its_l0() -> None:
    world = alone()
    for kind in kind_names():
        fvu, l0 = train(kind, Precision.float32, world)
        rounded_fvu, rounded_l0 = train(kind, Precision.bfloat16, world)
        assert fvu < 0.5
        assert abs(rounded_fvu / fvu - 1) < 0.05, kind
        assert abs(rounded_l0 / l0 - 1) < 0.05, kind
