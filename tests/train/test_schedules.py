"""Learning rate and sparsity coefficient, step by step, and the ranges of their settings."""

import pytest

from sae_dist.coders import Coder, JumpReLU
from sae_dist.common.errors import UserError
from sae_dist.train.config import LoopConfig, RungConfig
from sae_dist.train.optimizers import Adam, Optimizer
from sae_dist.train.schedules import learning_rate, never_in_time, sparsity_coefficient
from tests.coders.kinds import config_of_kind


def test_the_rate_rises_along_a_cosine_stays_and_falls_linearly() -> None:
    config = Adam(lr=1.0, warmup_steps=100, warmup_start=0.1, decay_share=0.2)
    rates = [learning_rate(config, 2**14, step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.55)
    assert rates[100:801] == [1.0] * 701
    assert rates[900] == pytest.approx(0.5)
    assert rates[999] == pytest.approx(1 / 200)
    assert rates[:101] == sorted(rates[:101])


def test_the_rate_falls_with_the_square_root_of_the_width_where_asked() -> None:
    config = Adam(lr=2e-4, scale_lr_by_width=True, warmup_steps=0)
    assert learning_rate(config, 2**14, 0, 10) == pytest.approx(2e-4)
    assert learning_rate(config, 2**18, 0, 10) == pytest.approx(0.5e-4)


def test_lambda_rises_linearly_from_nothing() -> None:
    coder, optim = JumpReLU(sparsity_coefficient=0.6), Adam(sparsity_warmup_steps=10)
    found = [sparsity_coefficient(coder, optim, step) for step in (0, 5, 10, 99)]
    assert found == pytest.approx([0.0, 0.3, 0.6, 0.6])
    at_once = Adam(sparsity_warmup_steps=0)
    assert sparsity_coefficient(coder, at_once, 0) == 0.6


@pytest.mark.parametrize(("kind", "k"), [("topk", 4), ("batchtopk", 2.5)])
def test_k_falls_in_a_line_from_where_it_begins(kind: str, k: float) -> None:
    coder = config_of_kind(kind, k=k, initial_k=64, k_anneal_steps=100, num_latents=64)
    ks = [coder.at_step(step).k for step in (0, 50, 99, 100, 1000)]
    assert ks == [64, round((64 + k) / 2), round(k + (64 - k) / 100), k, k]
    assert [coder.at_step(step).most_k for step in (0, 99, 100)] == [64, 64, k]
    assert coder.expected_l0 == 64
    assert list(coder.unfinished(101)) == []
    assert list(coder.unfinished(51)) == [("coder.k_anneal_steps=100", f"k ends at {ks[1]}")]
    with pytest.raises(UserError, match="coder.initial_k=65; expected 1 to coder.num_latents=64"):
        Coder(config_of_kind(kind, k=k, initial_k=65, num_latents=64), 4, 4)


def missed(num_steps: int, **optim: float) -> list[str]:
    rungs = [
        RungConfig(coder=config_of_kind(kind, aux_coefficient=1.0), optim=Adam(**optim))
        for kind in ("jumprelu", "topk", "topk")
    ]
    return list(never_in_time(LoopConfig(batch_tokens=1000), rungs, num_steps))


def test_what_a_run_is_too_short_for_is_told_once() -> None:
    assert missed(20_000) == []
    assert missed(391, warmup_steps=800, warmup_start=0.0) == [
        "optim.warmup_steps=800 of a run of 391 steps: lr ends at 48.04% of its peak",
        (
            "optim.sparsity_warmup_steps=10000 of a run of 391 steps: λ ends at 3.90% of "
            "coder.sparsity_coefficient=0.0006"
        ),
        (
            "coder.dead_after_tokens=10000000 of a run of 391000: no latent counts as dead, so "
            "that AuxK does nothing"
        ),
        (
            "of a run of 391 steps, checkpoint.every_steps=1000, watch.replicas_every_steps=1000: "
            "at its end alone"
        ),
    ]
    (drop,) = missed(20_000, warmup_steps=15_000, decay_share=0.5)
    assert drop.endswith("lr should fall before it has risen, and drops to 50.00% of its peak")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "optim.lr=-1.0; expected more than 0"),
        ({"beta2": 1.0}, "optim.beta2=1.0; expected at least 0 and below 1"),
        ({"decay_share": 2.0}, "optim.decay_share=2.0"),
        ({"warmup_steps": -1}, "optim.warmup_steps=-1"),
    ],
)
def test_settings_outside_of_their_range_are_refused(settings: dict, message: str) -> None:
    coder = Coder(JumpReLU(num_latents=8), 4, 4)
    with pytest.raises(UserError, match=message):
        Optimizer(coder, Adam(**settings))
