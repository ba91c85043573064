"""A step makes no host wait for a GPU, asks the same of it again and again, and not much."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from sae_dist.coders.kinds.jumprelu import TargetOf
from sae_dist.parallel import World, make_mesh
from sae_dist.train import Adam, Rung, SharedRows, training_step
from sae_dist.train.config import Precision
from tests.processes import CONTEXT, alone
from tests.train.ladders import D, rung
from tests.train.waits import Step

B = 16
PLAIN = {"aux_coefficient": 0.0}
PRICED = {"initial_l0": 6.0, "target_l0": 6.0, "target_of": TargetOf.token, "levels": [0.5]}
PRICED |= {"pre_act_coefficient": 1e-3, "ste_reaches_input": True}
KINDS = [  # with the most that a step launches
    ("topk", PLAIN, 0.9, 195),
    ("topk", {}, 0.9, 302),
    ("topk", PLAIN | {"multi_topk": True}, 0.9, 280),
    ("topk", PLAIN, 0.0, 189),
    ("abstopk", {}, 0.9, 407),
    ("batchtopk", {}, 0.9, 455),
    ("jumprelu", {}, 0.0, 266),
    ("jumprelu", PRICED, 0.0, 400),
    ("batchtopk", PLAIN | {"levels": [0.25]}, 0.9, 410),
    ("hierarchical_topk", PLAIN, 0.9, 400),
    ("relu", {"initial_l0": 6.0}, 0.0, 400),
    ("gated", {"initial_l0": 6.0}, 0.0, 400),
]


def trained(kind: str, world: World, latent: int, beta1: float, **more: Any) -> Rung:
    config = replace(rung(kind, num_latents=128, **more), site="in", target="in")
    config = replace(config, optim=Adam(beta1=beta1, clip_norm=1.0))
    mesh = make_mesh(world, latent, {})
    return Rung(config, mesh, 1.0, D, D, Precision.float32, world.device)


def batches() -> Iterator[SharedRows]:
    generator = torch.Generator().manual_seed(0)
    while True:
        yield SharedRows({"in": torch.randn(B, D, generator=generator)}, torch.float32)


def later_steps(rung: Rung) -> tuple[Step, Step]:
    """What the fourth and the fifth ask of a device: then it is known how much there is to find."""
    asked = []
    for number, rows in zip(range(5), batches(), strict=False):
        asked.append(Step())
        with asked[-1].watching():
            training_step(rung, rows, number, 100)
    return asked[3], asked[4]


def begin(rung: Rung) -> None:
    """First weights, with a quarter of the latents dead where AuxK reads them."""
    x_BD = next(batches())._acts["in"]
    rung.initialise(0, x_BD, x_BD)
    if rung.config.coder.num_aux:
        rung.counters.silent_F[::4] = rung.config.coder.dead_after_tokens
    if rung.config.coder.kind == "jumprelu":  # few fire, so that it is searched, and not dense
        with torch.no_grad():
            z_BF = rung.coder.pre_activations(x_BD)
            rung.coder.threshold.fill_(float(z_BF.quantile(0.95)))


@pytest.mark.parametrize(("kind", "more", "beta1", "at_most"), KINDS, ids=str)
def test_no_host_waits_and_steps_are_alike(
    kind: str, more: dict[str, Any], beta1: float, at_most: int
) -> None:
    one = trained(kind, alone(), 1, beta1, **more)
    begin(one)
    fourth, fifth = later_steps(one)
    assert not fourth.waits and not fifth.waits
    assert fourth.asked == fifth.asked  # of the same shapes, in the same order
    assert sum(fourth.launches.values()) <= at_most, fourth.launches


@contextmanager
def world_of_one_among(size: int) -> Iterator[World]:
    """The first process of a world whose others are made up: nothing that they send is right."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        yield World(0, size, torch.device("cpu"))
    finally:
        dist.destroy_process_group()


def waits_on_a_mesh() -> list[str]:
    waits = []
    with world_of_one_among(4) as world:
        for kind, more, beta1, _ in KINDS:
            one = trained(kind, world, 2, beta1, **more)
            for weights in one.coder.state_dict().values():
                weights.zero_()
            waits += later_steps(one)[0].waits
    return waits


def test_no_host_waits_on_a_mesh_of_both_axes() -> None:
    with ProcessPoolExecutor(1, mp_context=CONTEXT) as processes:
        assert processes.submit(waits_on_a_mesh).result() == []
