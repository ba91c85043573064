"""Losses and gradients of every kind and form against an independent dense reference."""

import itertools

import pytest
import torch
from torch import Tensor

import sae_dist.coders.kinds.jumprelu as jumprelu_module
from sae_dist.coders import (
    Coder,
    DeadLatents,
    Form,
    KSparse,
    LevelWeights,
    initialise,
    kind_names,
    level_of_latents,
    training_forward,
)
from sae_dist.coders.kinds.jumprelu import Sparsity, TargetOf
from sae_dist.coders.losses import moments, total_variance
from sae_dist.common.errors import UserError
from sae_dist.kernels import aux
from tests.coders.kinds import FORMS, config_of_kind

D, E, F, B, K, AUX_K = 12, 10, 40, 24, 4, 6
EVERY = list(itertools.product(kind_names(), FORMS))


@pytest.fixture(params=["sparse", "dense"], autouse=True)
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test once with the sparse arithmetic and once with the dense one of the first steps."""
    share = {"sparse": 1, "dense": 10**9}[request.param]
    monkeypatch.setattr(jumprelu_module, "_DENSE_SHARE", share)
    return request.param


def make(kind: str, form: Form, **settings: object) -> tuple[Coder, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    config = config_of_kind(
        kind, form=form, num_latents=F, k=K, aux_k=AUX_K, bandwidth=0.3, **settings
    )
    d_out = D if form is Form.autoencoder else E
    coder = Coder(config, D, d_out, dtype=torch.float64)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 3
            )
        if kind == "jumprelu":
            coder.threshold.abs_()
    x_BD = torch.randn(B, D, generator=generator, dtype=torch.float64)
    y_BE = torch.randn(B, E, generator=generator, dtype=torch.float64)
    return coder, x_BD, x_BD if form is Form.autoencoder else y_BE


class Dense:
    """A coder written from the papers with sorting, masks and no code of the package."""

    def __init__(self, coder: Coder, x: Tensor, y: Tensor) -> None:
        self.c, self.p, self.x, self.y = coder.config, dict(coder.named_parameters()), x, y
        p = self.p
        self.norm = p["W_dec"].norm(dim=1)
        if self.c.unit_norm_decoder:
            self.norm = self.norm.detach()
        centred = x - p["b_dec"] if self.c.form == "autoencoder" else x
        self.z = centred @ p["W_enc"].T + p["b_enc"]

    def keep(self, values: Tensor, k: float, per_row: bool) -> Tensor:
        values = values.detach().abs() if self.c.signed else values.detach()
        flat = values if per_row else values.reshape(1, -1)
        count = k if per_row else k * len(values)
        rank = flat.argsort(1, descending=True).argsort(1)
        return ((rank < count) & (flat > 0)).view_as(values).to(values.dtype)

    def decode(self, f: Tensor, *, moves: bool = True) -> Tensor:
        p = self.p if moves else {name: tensor.detach() for name, tensor in self.p.items()}
        skip = self.x @ p["W_skip"].T if "W_skip" in p else 0.0
        return f @ p["W_dec"] + p["b_dec"] + skip

    def squares(self, f: Tensor) -> Tensor:
        """Of y - ŷ, of a Matryoshka coder the mean over its levels."""
        c, ends = self.c, [0.0, *(self.c.levels or []), 1.0]
        place = torch.tensor([j * 2654435769 % 2**32 / 2**32 for j in range(F)])
        if c.kind == "hierarchical_topk":  # shares of k, by rank
            place = f.detach().argsort(1, descending=True).argsort(1) / c.k
        total = torch.zeros((), dtype=torch.float64)
        for start, end in itertools.pairwise(ends):
            weight = end - start if c.level_weights == "by_size" else 1 / (len(ends) - 1)
            total = total + weight * ((self.y - self.decode(f * (place < end))) ** 2).sum()
        return total


def fvu(error: Tensor, of: Tensor) -> Tensor:
    return (error**2).sum() / ((of - of.mean(0)) ** 2).sum()


def dense_loss(coder: Coder, x: Tensor, y: Tensor, lam: float, dead: Tensor) -> Tensor:
    """The same loss, densely."""
    dense = Dense(coder, x, y)
    if isinstance(coder.config, KSparse):
        return k_sparse_loss(dense, dead)
    z, p = dense.z, dense.p
    price, more = (z.relu() * dense.norm).sum(1).mean(), 0.0
    if coder.config.kind == "relu":
        f = z.relu()
    elif coder.config.kind == "gated":
        f = (z > 0) * (p["r_mag"].exp() * z + p["b_mag"]).relu()
        more = ((y - dense.decode(z.relu(), moves=False)) ** 2).sum()
    else:
        fires = z > p["threshold"]
        f, price = z * fires, fires.double().sum(1).mean()
    return (dense.squares(f) + more) / len(y) + lam * price


def k_sparse_loss(dense: Dense, dead: Tensor) -> Tensor:
    c, z, y, per_row = dense.c, dense.z, dense.y, dense.c.kind != "batchtopk"
    f = z * dense.keep(z, c.k, per_row)
    total = dense.squares(f) / ((y - y.mean(0)) ** 2).sum()
    if c.multi_topk:
        f4 = z * dense.keep(z, 4 * c.k, per_row)
        total = total + fvu(y - dense.decode(f4), y) / 8
    if c.aux_coefficient:
        z_dead = z * dead
        guess = (z_dead * dense.keep(z_dead, c.aux_k, True)) @ dense.p["W_dec"]
        e = (y - dense.decode(f)).detach()
        total = total + c.aux_coefficient * min(int(dead.sum()) / c.aux_k, 1) * fvu(e - guess, e)
    return total


def forward(coder: Coder, x: Tensor, y: Tensor, lam: float, dead: Tensor):
    return training_forward(coder, x, y, sparsity_coefficient=lam, dead=DeadLatents.of(dead))


LEVELS = {"levels": [0.1, 0.5], "level_weights": LevelWeights.by_size}
CASES = [  # dead latents, rows of them at once, settings
    *((0, B, {}), (3, B, {}), (20, B, {}), (20, 7, {})),
    (0, B, {"unit_norm_decoder": False}),
    *((3, B, {"levels": [0.25]}), (0, B, LEVELS)),
]


@pytest.mark.parametrize(("num_dead", "rows_at_once", "settings"), CASES, ids=str)
@pytest.mark.parametrize(("kind", "form"), EVERY)
def test_loss_and_gradients_equal_the_dense_reference(
    kind: str,
    form: Form,
    num_dead: int,
    rows_at_once: int,
    settings: dict,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(aux._BLOCK_VALUES, "cpu", rows_at_once * num_dead)
    coder, x_BD, y_BE = make(kind, form, aux_coefficient=1 / 32, multi_topk=True, **settings)
    dead_F = torch.arange(F) >= F - num_dead
    names = [n for n, _ in coder.named_parameters() if n != "threshold"]
    parameters = [coder.get_parameter(name) for name in names]

    expected = dense_loss(coder, x_BD, y_BE, 0.1, dead_F)
    expected_grads = torch.autograd.grad(expected, parameters)
    found = forward(coder, x_BD, y_BE, 0.1, dead_F).loss
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for name, grad, reference in zip(
        names, torch.autograd.grad(found, parameters), expected_grads, strict=True
    ):
        torch.testing.assert_close(grad, reference, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_threshold_gradient_follows_the_papers_pseudo_derivatives(form: Form) -> None:
    coder, x_BD, y_BE = make("jumprelu", form)
    lam, theta_F, epsilon = 0.1, coder.threshold.detach(), coder.config.bandwidth
    z_BF = coder.pre_activations(x_BD).detach()
    f_BF = torch.where(z_BF > theta_F, z_BF, 0.0)
    error_BE = y_BE - coder.reconstruct(f_BF, x_BD).detach()
    grad_f_BF = -2 * error_BE @ coder.W_dec.detach().T / B
    window_BF = ((z_BF - theta_F) / epsilon > -0.5) & ((z_BF - theta_F) / epsilon < 0.5)
    expected_F = (window_BF * (-(theta_F / epsilon) * grad_f_BF - lam / (epsilon * B))).sum(0)

    loss = forward(coder, x_BD, y_BE, lam, torch.zeros(F, dtype=torch.bool)).loss
    (found_F,) = torch.autograd.grad(loss, [coder.threshold])
    assert window_BF.any()
    torch.testing.assert_close(found_F, expected_F)


PRICES = [
    {"target_l0": 3.0, "target_of": TargetOf.batch},
    {"target_l0": 3.0, "target_of": TargetOf.token},
    {"sparsity": Sparsity.tanh},
    {"sparsity": Sparsity.tanh_quad, "levels": [0.3]},
]


def priced(coder: Coder, x: Tensor, y: Tensor, lam: float) -> Tensor:
    """JumpReLU's losses as published, densely; pseudo-derivatives as terms of value 0."""
    dense = Dense(coder, x, y)
    c, z, theta = dense.c, dense.z, dense.p["threshold"]
    fires = (z > theta).double()
    distance = ((z if c.ste_reaches_input else z.detach()) - theta) / c.bandwidth
    pseudo = distance * (distance.detach().abs() < 0.5)
    pseudo = pseudo - pseudo.detach()
    f = z * fires + theta.detach() * pseudo
    l0, often = (fires + pseudo).sum(1), (4 * D**0.5 * f * dense.norm).tanh().mean(0)
    price = {
        "batch": 2 / 3 * (l0.mean() - 3) ** 2,
        "token": (2 / 3 * (l0 - 3) ** 2).mean(),
        "tanh": often.sum(),
        "tanh_quad": (often + often**2 / 0.01).sum(),
    }[str(c.target_of if c.target_l0 else c.sparsity)]
    short = ((theta - z).relu() * dense.norm).sum(1).mean()
    return dense.squares(f) / len(y) + lam * price + c.pre_act_coefficient * short


@pytest.mark.parametrize("form", [Form.autoencoder, Form.skip_transcoder])
@pytest.mark.parametrize("pre_act", [0.0, 0.05])
@pytest.mark.parametrize("settings", PRICES, ids=str)
def test_jumprelu_prices_and_all_gradients_equal_the_dense_ones(
    settings: dict, pre_act: float, form: Form
) -> None:
    more = {"pre_act_coefficient": pre_act, "ste_reaches_input": pre_act > 0, "initial_l0": 4.0}
    more["unit_norm_decoder"] = form is Form.autoencoder
    coder, x_BD, y_BE = make("jumprelu", form, **settings, **more)
    found = forward(coder, x_BD, y_BE, 0.02, torch.zeros(F) > 0).loss
    expected = priced(coder, x_BD, y_BE, 0.02)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    parameters = list(coder.parameters())
    for (name, _), grad, reference in zip(
        coder.named_parameters(),
        torch.autograd.grad(found, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(grad, reference, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("l0", [2.0, 10.0])
def test_thresholds_begin_where_every_latent_fires_as_often(l0: float) -> None:
    coder, _, _ = make("jumprelu", Form.autoencoder, initial_l0=l0)
    x_ND = torch.randn(4000, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    initialise(coder, 0, x_ND, x_ND)
    fires_F = (coder.pre_activations(x_ND) > coder.threshold).sum(0)
    assert torch.equal(fires_F, torch.full_like(fires_F, round(4000 * l0 / F)))


def test_what_jumprelu_cannot_price_is_refused() -> None:
    for settings, message in [
        ({"sparsity": Sparsity.tanh}, "coder.initial_l0=null; expected a number beside"),
        ({"sparsity": Sparsity.tanh, "target_l0": 3.0}, "a target of l0 alone"),
    ]:
        with pytest.raises(UserError, match=message):
            make("jumprelu", Form.autoencoder, **settings)


def test_a_target_l0_is_paid_for_as_gemma_scope_2_does() -> None:
    """λ (2 / L0*) (L0 - L0*)² of the batch's mean L0, counted here row by row."""
    coder, x_BD, y_BE = make("jumprelu", Form.autoencoder, target_l0=8.0)
    fires_BF = (coder.pre_activations(x_BD) > coder.threshold).tolist()
    l0 = sum(map(sum, fires_BF)) / B
    found = forward(coder, x_BD, y_BE, 0.03, torch.zeros(F, dtype=torch.bool)).parts["sparsity"]
    assert float(found) == pytest.approx(0.03 * (2 / 8) * (l0 - 8) ** 2, rel=1e-12)


def test_target_l0_pulls_thresholds_the_right_way() -> None:
    for target, direction in ((1.0, -1), (F - 1.0, 1)):
        coder, x_BD, y_BE = make("jumprelu", Form.autoencoder, target_l0=target)
        result = forward(coder, x_BD, y_BE, 1.0, torch.zeros(F, dtype=torch.bool))
        expected = 2 / target * (float(result.l0) - target) ** 2
        assert float(result.parts["sparsity"]) == pytest.approx(expected)
        penalty = result.loss - result.parts["reconstruction"]
        reconstruction_only = make("jumprelu", Form.autoencoder)[0]
        base = forward(reconstruction_only, x_BD, y_BE, 0.0, torch.zeros(F, dtype=torch.bool)).loss
        grad = torch.autograd.grad(penalty, [coder.threshold])[0]
        grad = grad - torch.autograd.grad(base, [reconstruction_only.threshold])[0]
        assert torch.equal(grad.sign().unique(), torch.tensor(sorted({0, direction})).double())


def test_every_slice_has_its_part_of_every_level() -> None:
    whole_F = level_of_latents(range(2**14), [1 / 32, 1 / 4])
    assert whole_F.bincount().tolist() == pytest.approx([512, 3584, 12288], abs=2)
    for slices in (2, 3, 8, 64):
        size = 2**14 // slices
        for start in range(0, size * slices, size):
            part_f = level_of_latents(range(start, start + size), [1 / 32, 1 / 4])
            assert torch.equal(part_f, whole_F[start : start + size])
            counts = [size / 32, size * 7 / 32, size * 3 / 4]
            assert part_f.bincount().tolist() == pytest.approx(counts, abs=3)


def test_random_levels_are_drawn_by_the_step_alone_and_mostly_small() -> None:
    config = config_of_kind("topk", random_levels=5)
    drawn = [config.at_step(step) for step in range(200)]
    assert all(c.num_levels == 5 and c.levels == sorted(c.levels) for c in drawn)
    assert drawn[7] == config.at_step(7) and drawn[7] != drawn[8]
    shares = torch.tensor([c.levels for c in drawn]).flatten()
    assert float((shares < 0.25).double().mean()) == pytest.approx(0.5, abs=0.05)


def test_aux_loss_reaches_encoder_and_decoder_of_dead_latents_only() -> None:
    coder, x_BD, y_BE = make("topk", Form.autoencoder, aux_coefficient=1.0)
    dead_F = torch.zeros(F, dtype=torch.bool)
    without = forward(coder, x_BD, y_BE, 0.0, dead_F)
    silent_F = without.fired_F == 0
    dead_F[0:20] = True
    difference = forward(coder, x_BD, y_BE, 0.0, dead_F).loss - without.loss
    for gradient in torch.autograd.grad(difference, [coder.W_enc, coder.W_dec]):
        touched_F = gradient.abs().sum(1) > 1e-12
        assert touched_F[:20].any()
        assert not touched_F[20:].any()
    assert not silent_F.all()


def test_aux_loss_of_a_perfect_reconstruction_is_zero_not_nan() -> None:
    coder, x_BD, _ = make("topk", Form.transcoder, aux_coefficient=1.0)
    with torch.no_grad():
        coder.W_dec.zero_()
    y_BE = coder.b_dec.detach().expand(B, E)
    assert forward(coder, x_BD, y_BE, 0.0, torch.ones(F) > 0).parts["aux_k"] == 0.0


def test_a_target_far_from_zero_keeps_the_digits_of_its_spread() -> None:
    y_BE = torch.randn(B, E, generator=torch.Generator().manual_seed(3)) + 1e3
    exact_BE = y_BE.double()
    expected = (exact_BE - exact_BE.mean(0)).pow(2).sum()
    parts = [moments(part_BE) for part_BE in y_BE.split([3, 5, B - 8])]
    torch.testing.assert_close(total_variance(sum(parts), B), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("kind", "form"), EVERY)
def test_a_transcoder_without_unit_norm_begins_as_a_constant(kind: str, form: Form) -> None:
    coder, x_BD, y_BE = make(kind, form, unit_norm_decoder=False)
    initialise(coder, 0, x_BD, y_BE)
    if form is Form.autoencoder:
        assert torch.equal(coder.W_enc, coder.W_dec)
        torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.ones(F, dtype=torch.float64))
    else:
        mean_E = y_BE.mean(0) if coder.config.begins_at_data else torch.zeros_like(y_BE[0])
        torch.testing.assert_close(coder(x_BD), mean_E.expand_as(y_BE))
