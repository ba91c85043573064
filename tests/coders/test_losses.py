"""Losses and gradients of every kind and form against an independent dense reference."""

import itertools

import pytest
import torch
from torch import Tensor

import sae_dist.coders.kinds.jumprelu as jumprelu_module
from sae_dist.coders import Coder, DeadLatents, Form, initialise, kind_names, training_forward
from sae_dist.coders.losses import moments, total_variance
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


def dense_loss(coder: Coder, x: Tensor, y: Tensor, lam: float, dead: Tensor) -> Tensor:
    """The same loss written from the papers with sorting, masks and no code of the package."""
    c, p = coder.config, dict(coder.named_parameters())
    centred = x - p["b_dec"] if c.form == "autoencoder" else x
    z = centred @ p["W_enc"].T + p["b_enc"]

    def keep(values: Tensor, count: int, per_row: bool) -> Tensor:
        values = values.abs() if c.signed else values
        flat = values if per_row else values.reshape(1, -1)
        rank = flat.argsort(1, descending=True).argsort(1)
        return ((rank < count) & (flat > 0)).view_as(values).to(values.dtype)

    def decode(f: Tensor) -> Tensor:
        skip = x @ p["W_skip"].T if "W_skip" in p else 0.0
        return f @ p["W_dec"] + p["b_dec"] + skip

    def fvu(error: Tensor, of: Tensor) -> Tensor:
        return (error**2).sum() / ((of - of.mean(0)) ** 2).sum()

    if c.kind == "jumprelu":
        f = z * (z > p["threshold"])
        return ((y - decode(f)) ** 2).sum(1).mean() + lam * (z > p["threshold"]).double().sum(
            1
        ).mean()
    per_row = c.kind != "batchtopk"
    f = z * keep(z.detach(), c.k if per_row else c.k * len(x), per_row)
    error = y - decode(f)
    total = fvu(error, y)
    if c.multi_topk:
        f4 = z * keep(z.detach(), 4 * c.k if per_row else 4 * c.k * len(x), per_row)
        total = total + fvu(y - decode(f4), y) / 8
    if c.aux_coefficient:
        z_dead = z * dead
        guess = (z_dead * keep(z_dead.detach(), c.aux_k, True)) @ p["W_dec"]
        e = error.detach()
        total = total + c.aux_coefficient * min(int(dead.sum()) / c.aux_k, 1) * fvu(e - guess, e)
    return total


def forward(coder: Coder, x: Tensor, y: Tensor, lam: float, dead: Tensor):
    return training_forward(coder, x, y, sparsity_coefficient=lam, dead=DeadLatents.of(dead))


@pytest.mark.parametrize(("num_dead", "rows_at_once"), [(0, B), (3, B), (20, B), (20, 7)])
@pytest.mark.parametrize(("kind", "form"), EVERY)
def test_loss_and_gradients_equal_the_dense_reference(
    kind: str, form: Form, num_dead: int, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(aux._BLOCK_VALUES, "cpu", rows_at_once * num_dead)
    coder, x_BD, y_BE = make(kind, form, aux_coefficient=1 / 32, multi_topk=True)
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
        mean_E = torch.zeros_like(y_BE[0]) if kind == "jumprelu" else y_BE.mean(0)
        torch.testing.assert_close(coder(x_BD), mean_E.expand_as(y_BE))
