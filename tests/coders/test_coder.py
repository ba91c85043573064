"""Folding, files and first weights."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sae_dist.coders import (
    Coder,
    DeadLatents,
    Form,
    Inputs,
    fold,
    initialise,
    kind_names,
    load_coder,
    save_coder,
    training_forward,
    unfold,
)
from sae_dist.coders.initialise import geometric_median, unit_rows
from sae_dist.coders.whiten import fit_whitening
from sae_dist.common.errors import UserError
from tests.coders.kinds import FORMS, config_of_kind

EVERY = list(itertools.product(kind_names(), FORMS))


def trained(kind: str, form: Form) -> tuple[Coder, torch.Tensor]:
    """A coder whose every tensor is generic, in evaluation mode, and normalised inputs."""
    generator = torch.Generator().manual_seed(0)
    d_out = 6 if form is Form.autoencoder else 5
    coder = Coder(config_of_kind(kind, form=form, num_latents=24, k=3), 6, d_out)
    with torch.no_grad():
        for tensor in (*coder.parameters(), *coder.buffers()):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.4)
        if "threshold" in coder.config.tensors():
            coder.threshold.abs_()
    return coder.eval(), torch.randn(50, 6, generator=generator)


@pytest.mark.parametrize(("kind", "form"), EVERY)
def test_folding_leaves_outputs_equal_on_raw_activations(kind: str, form: Form) -> None:
    coder, x_BD = trained(kind, form)
    folded = fold(coder, scale=7.0)
    assert not folded.pre_bias
    assert torch.equal(folded.encode(7.0 * x_BD) > 0, coder.encode(x_BD) > 0)
    torch.testing.assert_close(folded(7.0 * x_BD), 7.0 * coder(x_BD), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "form"), [(k, f) for k, f in EVERY if not f.reconstructs_input])
def test_a_targets_own_scale_is_folded_into_what_fires(kind: str, form: Form) -> None:
    coder, x_BD = trained(kind, form)
    folded, again = fold(coder, 7.0, target_scale=3.0), trained(kind, form)[0]
    torch.testing.assert_close(folded.encode(7.0 * x_BD), 3.0 * coder.encode(x_BD))
    torch.testing.assert_close(folded(7.0 * x_BD), 3.0 * coder(x_BD), rtol=1e-5, atol=1e-5)
    assert torch.equal(folded.W_dec, coder.W_dec)  # of unit norm, if it was
    unfold(folded, 7.0, again, target_scale=3.0)
    for name, tensor in coder.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, msg=name)


@pytest.mark.parametrize("inputs", [Inputs.whitened, Inputs.unit])
@pytest.mark.parametrize("kind", ["jumprelu", "batchtopk", "topk", "gated"])
def test_what_a_coder_sees_is_folded_or_kept(kind: str, inputs: Inputs, tmp_path: Path) -> None:
    """And it is trained as a plain coder on what it sees."""
    plain, x_BD = trained(kind, Form.autoencoder)
    x_BD = x_BD * torch.tensor([9.0, 3.0, 1.0, 1.0, 0.8, 0.6]) + 2
    coder = Coder(replace(plain.config, inputs=inputs), 6, 6).eval()
    coder.load_state_dict(coder.state_dict() | plain.state_dict())
    if inputs is Inputs.whitened:
        fit_whitening(coder, x_BD)
        assert torch.allclose(6 * coder.prepared(x_BD).T.cov(), torch.eye(6), atol=0.1)
    seen_BD, dead = coder.prepared(x_BD), DeadLatents.of(torch.zeros(24) > 0)
    torch.testing.assert_close(seen_BD.square().sum(1).mean(), torch.tensor(1.0), rtol=0.05, atol=0)
    torch.testing.assert_close(coder.restored(seen_BD, x_BD), x_BD, rtol=1e-4, atol=1e-4)
    loss, expected = (
        training_forward(one.train(), x, x, sparsity_coefficient=0.1, dead=dead).loss
        for one, x in ((coder, x_BD), (plain, seen_BD))
    )
    assert torch.equal(loss, expected)
    folded = fold(coder.eval(), scale=7.0)
    save_coder(tmp_path, folded, folded.state_dict(), {})
    loaded, raw_BD = load_coder(tmp_path), 7.0 * x_BD
    torch.testing.assert_close(loaded.encode(raw_BD) > 0, coder.encode(x_BD) > 0)
    torch.testing.assert_close(loaded(raw_BD), 7.0 * coder(x_BD), rtol=1e-4, atol=1e-3)
    code, acts_N = loaded.encode_sparse(raw_BD)
    sparse_BD = loaded.reconstruct_sparse(code, acts_N, raw_BD)
    torch.testing.assert_close(sparse_BD, loaded(raw_BD), rtol=1e-4, atol=1e-3)
    assert loaded.config.inputs is (Inputs.unit if inputs is Inputs.unit else Inputs.plain)
    with pytest.raises(UserError, match="of a transcoder; expected plain"):
        Coder(replace(coder.config, form=Form.transcoder), 6, 6)


@pytest.mark.parametrize(("kind", "form"), EVERY)
@pytest.mark.parametrize("folded", [False, True])
def test_sparse_inference_equals_the_dense_one(kind: str, form: Form, folded: bool) -> None:
    coder, x_BD = trained(kind, form)
    coder = fold(coder, 2.0) if folded else coder
    code, acts_N = coder.encode_sparse(x_BD)
    acts_BF = torch.zeros(len(x_BD), 24)
    acts_BF[code.rows_N, code.latents_N] = acts_N
    torch.testing.assert_close(acts_BF, coder.encode(x_BD))
    assert (acts_N != 0).all()
    torch.testing.assert_close(coder.reconstruct_sparse(code, acts_N, x_BD), coder(x_BD))


@pytest.mark.parametrize(("kind", "form"), EVERY)
def test_a_coder_saved_and_loaded_is_the_same_whole_or_in_slices(
    kind: str, form: Form, tmp_path: Path
) -> None:
    coder, x_BD = trained(kind, form)
    folded = fold(coder, scale=2.0)
    save_coder(tmp_path, folded, folded.state_dict(), {"site": "resid_post.0"})
    loaded = load_coder(tmp_path)
    assert loaded.config == coder.config
    assert torch.equal(loaded(x_BD), folded(x_BD))
    halves = [load_coder(tmp_path, part=part, parts=2) for part in range(2)]
    for name in ("W_enc", "W_dec", "b_enc"):
        joined = torch.cat([half.get_parameter(name) for half in halves])
        assert torch.equal(joined, folded.get_parameter(name))
    with pytest.raises(UserError, match="24 latents cannot be dealt to 5 slices"):
        load_coder(tmp_path, part=0, parts=5)


def test_a_missing_or_foreign_coder_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no coder in .*: expected coder\.json"):
        load_coder(tmp_path)
    (tmp_path / "coder.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="has format 99; this version reads 1"):
        load_coder(tmp_path)
    coder, _ = trained("topk", Form.autoencoder)
    save_coder(tmp_path, coder, coder.state_dict(), {"source": [["lm", {}]]})
    with pytest.raises(UserError, match=r"coder\.json unusable"):
        load_coder(tmp_path)


def test_batchtopk_at_inference_uses_its_threshold_and_not_the_batch() -> None:
    coder, x_BD = trained("batchtopk", Form.autoencoder)
    z_BF = coder.pre_activations(x_BD)
    expected = torch.where(z_BF > coder.threshold.float(), z_BF, 0.0)
    assert torch.equal(coder.encode(x_BD), expected)
    torch.testing.assert_close(coder.encode(x_BD[:1]), coder.encode(x_BD)[:1])


def test_slices_begin_as_slices_of_the_whole() -> None:
    whole = unit_rows(3, "W_dec", range(5000), 8)
    assert torch.equal(unit_rows(3, "W_dec", range(1000, 3333), 8), whole[1000:3333])
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(5000))
    assert not torch.equal(unit_rows(4, "W_dec", range(5000), 8), whole)
    assert len(whole.unique(dim=0)) == 5000


def test_coders_of_two_widths_begin_with_no_row_in_common() -> None:
    x_BD = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    begun = []
    for num_latents in (32, 64):
        config = config_of_kind("topk", form=Form.autoencoder, num_latents=num_latents)
        begun.append(Coder(config, 16, 16))
        initialise(begun[-1], 0, x_BD, x_BD)
    small_FD, large_GD = (coder.W_dec.detach() for coder in begun)
    assert (small_FD @ large_GD.T).max() < 0.999


def test_dead_latents_are_listed_in_few_lengths_and_told_from_those_that_follow() -> None:
    lengths = set()
    for num_dead in range(1000, 1100):
        mask_F = torch.randperm(4096, generator=torch.Generator().manual_seed(num_dead)) < num_dead
        dead = DeadLatents.of(mask_F)
        listed_d, is_dead_d = dead.listed()
        assert torch.equal(listed_d[is_dead_d], mask_F.nonzero().flatten())
        assert len(listed_d) == dead.at_most <= 1.125 * num_dead
        lengths.add(len(listed_d))
    assert len(lengths) <= 3


def test_batchtopks_threshold_follows_a_run_whose_thresholds_fall() -> None:
    coder = Coder(config_of_kind("batchtopk", num_latents=24, k=3), 6, 6)
    for step in range(1, 501):
        least = torch.tensor(2.0 - step / 500)
        coder.after_step(lambda least=least: least, torch.tensor(step))
    assert 1.0 < float(coder.threshold) < 1.15  # the mean of all is 1.5


def test_geometric_median_is_not_moved_by_an_outlier() -> None:
    x_ND = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x_ND[0] = 1e6
    assert geometric_median(x_ND).norm() < 0.2
    assert x_ND.mean(0).norm() > 100


def test_an_autoencoder_topk_begins_at_the_geometric_median() -> None:
    coder, x_BD = trained("topk", Form.autoencoder)
    initialise(coder, 0, x_BD, x_BD)
    torch.testing.assert_close(coder.b_dec.detach(), geometric_median(x_BD))


@pytest.mark.parametrize("form", FORMS)
def test_the_encoders_rows_begin_with_the_norm_that_is_asked_for(form: Form) -> None:
    x_BD = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    coders = []
    for norm in (1.0, 0.1):
        config = config_of_kind("topk", form=form, num_latents=8, k=2)
        config.initial_encoder_norm = norm
        coders.append(Coder(config, 6, 6))
        initialise(coders[-1], 0, x_BD, x_BD)
    one, tenth = coders
    torch.testing.assert_close(one.W_enc.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(10 * tenth.W_enc, one.W_enc)
    assert torch.equal(tenth.W_dec, one.W_dec)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "topk", "num_latents": 0}, "coder.num_latents=0; expected at least 1"),
        ({"kind": "topk", "num_latents": 8, "k": 9}, "coder.k=9; expected 1 to .*=8"),
        ({"kind": "batchtopk", "k": 0}, "coder.k=0; expected more than 0"),
        ({"kind": "jumprelu", "bandwidth": 0.0}, "coder.bandwidth=0.0; expected more than 0"),
        (
            {"kind": "topk", "initial_encoder_norm": 0.0},
            "coder.initial_encoder_norm=0.0; expected more than 0",
        ),
    ],
)
def test_impossible_coders_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Coder(config_of_kind(**settings), 6, 6)
