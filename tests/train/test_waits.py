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
from sae_dist.common.errors import UserError
from sae_dist.kernels import dispatch, host, search
from sae_dist.parallel import World, make_mesh
from sae_dist.train import Adam, Rung, SharedRows, training_step
from sae_dist.train.config import Precision
from sae_dist.train.graph import GraphedStep
from tests.processes import CONTEXT, alone
from tests.train.ladders import rung
from tests.train.waits import Recording, Step

B, WIDTH = 160, 64  # rows enough for a latent to have pieces; columns that are not padded
PLAIN = {"aux_coefficient": 0.0}
PRICED = {"initial_l0": 6.0, "target_l0": 6.0, "target_of": TargetOf.token, "levels": [0.5]}
PRICED |= {"pre_act_coefficient": 1e-3, "ste_reaches_input": True}
KINDS = [  # with the most that a step launches
    ("topk", PLAIN, 0.9, 39),
    ("topk", {}, 0.9, 162),
    ("topk", PLAIN | {"multi_topk": True}, 0.9, 91),
    ("topk", PLAIN, 0.0, 39),
    ("abstopk", {}, 0.9, 245),
    ("batchtopk", {}, 0.9, 327),
    ("jumprelu", {}, 0.0, 131),
    ("jumprelu", PRICED, 0.0, 258),
    ("batchtopk", PLAIN | {"levels": [0.25]}, 0.9, 266),
    ("hierarchical_topk", PLAIN, 0.9, 248),
    ("relu", {"initial_l0": 6.0}, 0.0, 108),
    ("gated", {"initial_l0": 6.0}, 0.0, 152),
]


def trained(kind: str, world: World, latent: int, beta1: float, **more: Any) -> Rung:
    config = replace(rung(kind, **{"num_latents": 128} | more), site="in", target="in")
    config = replace(config, optim=Adam(beta1=beta1, clip_norm=1.0))
    mesh = make_mesh(world, latent, {})
    return Rung(config, mesh, 1.0, WIDTH, WIDTH, Precision.float32, world.device)


def batches() -> Iterator[SharedRows]:
    generator = torch.Generator().manual_seed(0)
    while True:
        yield SharedRows({"in": torch.randn(B, WIDTH, generator=generator)}, torch.float32)


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
    x_BD = next(batches()).acts["in"]
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


REPLAYED = [case[:3] for case in KINDS if case[1] != {} and case[0] == "topk"]
REPLAYED.append(("abstopk", PLAIN, 0.9))


@pytest.mark.parametrize(("kind", "more", "beta1"), REPLAYED, ids=str)
def test_a_step_to_be_replayed_is_told_nothing_new(
    kind: str, more: dict[str, Any], beta1: float
) -> None:
    """Numbers that the host hands to a device would be those of the recording for ever."""
    one = trained(kind, alone(), 1, beta1, **more)
    begin(one)
    step, told, places = GraphedStep(one), [], []
    for number, rows in zip(range(5), batches(), strict=False):
        step.put(rows.acts, number, 100)
        asked = Step()
        with asked.watching():
            step.take()
        told.append(asked.told)
        held = (*(tensor for _, tensor, _ in one.held()), *step._acts.values(), step._lr)
        places.append([tensor.data_ptr() for tensor in (*held, one.coder.encoder().bf16_FD)])
    assert told[3] == told[4] and places[3] == places[4]


def test_a_step_that_is_launched_is_told_the_rate() -> None:
    one = trained("topk", alone(), 1, 0.9, **PLAIN)
    begin(one)
    fourth, fifth = later_steps(one)
    assert {name for name, *_ in set(fourth.told) - set(fifth.told)} == {"_update_rows"}


def test_a_step_to_be_replayed_is_the_same_step() -> None:
    found, expected = (trained("topk", alone(), 1, 0.9, **PLAIN) for _ in range(2))
    begin(found), begin(expected)
    step = GraphedStep(found)
    for number, rows in zip(range(3), batches(), strict=False):
        step.put(rows.acts, number, 100)
        result = step.take()
        loss = training_step(expected, rows, number, 100).forward.loss
        torch.testing.assert_close(result.forward.loss, loss)
    for (name, one, _), (_, other, _) in zip(found.held(), expected.held(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


@pytest.mark.slow  # every program is interpreted
@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")  # of the interpreter's numpy
def test_a_recorded_step_is_replayed_on_other_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(search, "search_dtype", lambda W_FD: torch.bfloat16)
    monkeypatch.setattr(dispatch, "_on_triton", lambda x: True)
    monkeypatch.setattr(host, "is_at_hand", lambda x: False)
    small = PLAIN | {"num_latents": 40, "k": 2}
    replayed, launched = (trained("topk", alone(), 1, 0.9, **small) for _ in range(2))
    given = [rows.acts["in"][:3] for rows, _ in zip(batches(), range(3), strict=False)]
    for one in (replayed, launched):
        one.initialise(0, given[0], given[0])
    step, recording = GraphedStep(replayed), Recording()
    for number, x_BD in enumerate(given):
        step.put({"in": x_BD}, number, 100)
        if number == 0:
            with recording.recording():
                result = step.take()
        else:
            recording.replay()
        rows = SharedRows({"in": x_BD}, torch.float32)
        expected = training_step(launched, rows, number, 100)
        assert torch.equal(result.forward.loss, expected.forward.loss)
        assert torch.equal(result.gradient_norm, expected.gradient_norm)
    for (name, one, _), (_, other, _) in zip(replayed.held(), launched.held(), strict=True):
        assert torch.equal(one, other), name


def test_only_fixed_shapes_are_recorded() -> None:
    for kind, more in (("topk", {}), ("jumprelu", {}), ("topk", PLAIN | {"k": 513})):
        with pytest.raises(UserError, match="a TopK without AuxK, of k ≤ 512, on one"):
            GraphedStep(trained(kind, alone(), 1, 0.9, **{"num_latents": 1024} | more))
