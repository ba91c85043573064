"""A real step hands exactly those bytes to collectives that the formula gives."""

import itertools

import pytest
import torch

from sae_dist.coders import CoderConfig, Form, JumpReLU, KSparse, kind_named, kind_names, slice_of
from sae_dist.coders.kinds.jumprelu import Sparsity, TargetOf
from sae_dist.coders.messages import MeshAxis
from sae_dist.parallel import Mesh, World, make_mesh, messages
from sae_dist.train import Adam, Muon, OptimConfig, RungConfig, training_step
from sae_dist.train.config import Precision
from sae_dist.train.rows import SharedRows
from sae_dist.train.rung import Rung
from tests.coders.kinds import FORMS, config_of_kind
from tests.processes import run_on

D, E, F, B, K, AUX_K = 10, 7, 48, 24, 3, 5
WIDTHS = {"in": D, "out": E}


def coders() -> list[CoderConfig]:
    """Every kind and form with all that the kind reads, and every kind with less of it."""
    k_sparse = [kind for kind in kind_names() if issubclass(kind_named(kind), KSparse)]
    switches = [(kind, form, 0.1, True) for kind in k_sparse for form in FORMS]
    switches += [(kind, Form.autoencoder, 0.1, False) for kind in k_sparse]
    switches += [("topk", Form.autoencoder, 0.0, False)]
    others = sorted({*kind_names()} - {*k_sparse})
    switches += [(kind, form, 0.0, False) for kind in others for form in FORMS]
    nested = [
        config_of_kind(kind, num_latents=F, k=K, **{name: levels})
        for kind, name, levels in [("batchtopk", "levels", [0.5]), ("jumprelu", "random_levels", 4)]
    ]
    more = {"pre_act_coefficient": 0.1, "initial_l0": 4.0}
    token = {"target_l0": 4.0, "target_of": TargetOf.token}
    prices = [
        config_of_kind("jumprelu", form=form, num_latents=F, **price)
        for form, price in [
            (Form.autoencoder, more | token),
            (Form.transcoder, more | {"sparsity": Sparsity.tanh_quad}),
        ]
    ]
    return (
        nested
        + prices
        + [
            config_of_kind(
                kind,
                form=form,
                num_latents=F,
                k=K,
                aux_k=AUX_K,
                aux_coefficient=aux,
                multi_topk=multi,
                dead_after_tokens=10**6,
            )
            for kind, form, aux, multi in switches
        ]
    )


def target_of(config: CoderConfig) -> str:
    return "in" if config.form is Form.autoencoder else "out"


def usage(mesh: Mesh) -> dict[MeshAxis, tuple[int, int]]:
    axes = {over: getattr(mesh, over) for over in MeshAxis}
    return {over: (axis.bytes_sent, axis.num_messages) for over, axis in axes.items()}


def third_step(
    world: World,
    latent: int,
    config: CoderConfig,
    optim: OptimConfig,
    has_dead: bool,
    precision: Precision,
) -> tuple[dict[MeshAxis, tuple[int, int]], int]:
    """Bytes and messages over each axis, and the bytes that the step reports."""
    generator = torch.Generator().manual_seed(0)
    sample = {s: torch.randn(B, width, generator=generator) for s, width in WIDTHS.items()}
    rows = slice_of(B, world.rank, world.size)
    acts = {s: x_BD[rows.start : rows.stop].bfloat16() for s, x_BD in sample.items()}
    target = target_of(config)
    mesh = make_mesh(world, latent, {})
    rung = Rung(
        RungConfig(site="in", target=target, coder=config, optim=optim),
        mesh,
        mean_square=float(D),
        d_in=D,
        d_out=WIDTHS[target],
        precision=precision,
        device=world.device,
    )
    rung.initialise(0, sample["in"], sample[target])
    for step in range(3):  # from the second on, BatchTopK has a threshold to begin with
        rung.counters.silent_F[-1] = config.dead_after_tokens if has_dead else 0
        before = usage(mesh)
        batch = SharedRows(acts, precision.weights)
        reported = training_step(rung, batch, step, 3).bytes_sent
    after = usage(mesh)
    return {
        over: (after[over][0] - before[over][0], after[over][1] - before[over][1])
        for over in MeshAxis
    }, reported


def steps_unlike_the_formula(world: World, latent: int) -> list[str]:
    wrong = []
    mesh = (world.size // latent, latent)
    muon_of = JumpReLU(form=Form.skip_transcoder, num_latents=F)
    pairs = [*((config, Adam()) for config in coders()), (muon_of, Muon())]
    for (config, optim), (has_dead, precision) in itertools.product(
        pairs, [(False, Precision.float64), (True, Precision.float32)]
    ):
        target = target_of(config)
        found, reported = third_step(world, latent, config, optim, has_dead, precision)
        expected = messages(
            config,
            D,
            WIDTHS[target],
            B,
            mesh,
            has_dead=has_dead,
            bytes_per_value=precision.weights.itemsize,
            update=optim.cost(F, D, WIDTHS[target]),
        )
        for over in MeshAxis:
            sizes = [message.num_bytes for message in expected if message.over is over]
            if found[over] != (sum(sizes), len(sizes)):
                wrong.append(
                    f"{config} {optim.name} {has_dead} {precision} {over}: {found[over]}, {sizes}"
                )
        if reported != sum(message.num_bytes for message in expected):
            wrong.append(f"{config} {has_dead} {precision}: reported {reported}")
    return wrong


@pytest.mark.parametrize(
    ("data", "latent"),
    [
        *((1, 2), (2, 1), (2, 2)),
        pytest.param(1, 4, marks=pytest.mark.slow),
        pytest.param(4, 1, marks=pytest.mark.slow),
    ],
)
def test_a_step_hands_over_exactly_what_the_formula_says(data: int, latent: int) -> None:
    world = data * latent
    assert run_on(world, steps_unlike_the_formula, latent) == [[]] * world


@pytest.mark.parametrize("config", coders(), ids=lambda c: f"{c.kind}-{c.form}-{c.work[0]}")
def test_one_process_sends_nothing(config: CoderConfig) -> None:
    assert messages(config, D, E, B, (1, 1)) == []


def test_an_autoencoder_gathers_its_rows_once_and_large_messages_are_those_of_the_issue() -> None:
    config = config_of_kind("jumprelu", num_latents=2**20)
    D, B = 2304, 65536
    latent = sum(m.num_bytes for m in messages(config, D, D, B, (1, 8)))
    assert latent == pytest.approx(2 * B / 8 * D + 4 * B * D, rel=1e-4)
    data = sum(m.num_bytes for m in messages(config, D, D, B, (8, 1)))
    assert data == pytest.approx(4 * 2**20 * 2 * D, rel=2e-3)
