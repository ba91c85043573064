"""A direction's effect on the logits is what the model's last steps make of it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_dist.common.errors import UserError
from sae_dist.lm import LMConfig, LMDtype, Unembedding, load_unembeddings, unembeddings
from sae_dist.lm import unembed as unembed_module
from sae_dist.lm.families import FAMILIES, decoder_of
from sae_dist.lm.load import decided_dtype
from tests.lm.test_load import save
from tests.lm.tiny import OPTIONS, WIDTH, tiny_model


def unembedding(model, site: str) -> Unembedding | None:
    return unembeddings(model, [site])[site]


def last_steps(model, x_nD: torch.Tensor) -> torch.Tensor:
    """Final norm and head, of rows whose norm scales them by one number alone."""
    norm = decoder_of(model)[1].get_submodule(FAMILIES[model.config.model_type].final_norm)
    return model.get_output_embeddings()(norm(x_nD))


@pytest.mark.parametrize("family", OPTIONS)
def test_it_is_the_final_norm_and_the_head(family: str) -> None:
    """Of a large direction the norm's scale is its own size; a bias adds the same to all."""
    model = tiny_model(family)
    d_nD = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    for site in ("resid_post.0", "resid_pre.2", "mlp_out.1"):
        effect_of = unembedding(model, site)
        assert effect_of is not None
        own_nD = d_nD - d_nD.mean(1, keepdim=True) if effect_of.is_centred else d_nD
        scale_n1 = own_nD.pow(2).mean(1, keepdim=True).sqrt()
        expected_nV = last_steps(model, 1e4 * d_nD) - last_steps(model, -1e4 * d_nD)
        assert torch.allclose(effect_of(d_nD), expected_nV / 2 * scale_n1, atol=1e-4)
    assert unembedding(model, "mlp_in.1") is None and unembedding(model, "embed") is None


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_attention_goes_through_its_output_matrix(family: str) -> None:
    model = tiny_model(family)
    heads, own = unembedding(model, "attn_z.1"), unembedding(model, "resid_post.1")
    assert heads is not None and own is not None
    path = FAMILIES[family].attention_out
    layer = decoder_of(model)[1].get_submodule(FAMILIES[family].layers)[1]
    W_O = layer.get_submodule(path)
    weight_ED = W_O.weight if family == "gpt2" else W_O.weight.T
    into_ED = weight_ED * (1 + layer.post_attention_layernorm.weight if family == "gemma2" else 1)
    d_nE = torch.randn(5, len(weight_ED), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(heads(d_nE), own(d_nE @ into_ED), atol=1e-4)
    name = next(n for n, module in model.named_modules() if module is W_O)
    out = unembedding(model, f"{name}.output")
    assert out is not None
    gain_D = torch.ones(WIDTH) if family != "gemma2" else 1 + layer.post_attention_layernorm.weight
    d_nD = d_nE[:, :1].expand(-1, WIDTH)
    assert torch.allclose(out(d_nD), own(d_nD * gain_D), atol=1e-4)


SITES = ("resid_post.1", "attn_z.1", "mlp_in.1")


def assert_same(found, expected) -> None:
    d_nE = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
    assert list(found) == list(expected)
    for own, other in zip(found.values(), expected.values(), strict=True):
        if other is None:
            assert own is None
        else:
            width = WIDTH if other.into_ED is None else len(other.into_ED)
            assert torch.equal(own(d_nE[:, :width]), other(d_nE[:, :width]))


@pytest.mark.parametrize("family", OPTIONS)
def test_of_saved_models_no_other_weights_are_read(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one file and in several, as transformers names weights and as the Hub's GPT-2 does."""
    model, file = tiny_model(family), tmp_path / "c" / "model.safetensors"
    model.save_pretrained(tmp_path / "a")
    model.save_pretrained(tmp_path / "b", max_shard_size="20KB")
    model.save_pretrained(tmp_path / "c")
    prefix = f"{model.base_model_prefix}."
    save_file({name.removeprefix(prefix): t for name, t in load_file(file).items()}, file)
    with monkeypatch.context() as patch:
        patch.setattr(unembed_module, "load_lm", lambda *_, **__: pytest.fail("was loaded whole"))
        for folder in "abc":
            found = load_unembeddings(LMConfig(name=str(tmp_path / folder)), SITES, "cpu")
            assert_same(found, unembeddings(model, SITES))
        half = LMConfig(name=str(tmp_path / "a"), dtype=LMDtype.bfloat16)
        saved = LMConfig(name=str(tmp_path / "a"), dtype=LMDtype.auto)
        assert_same(load_unembeddings(saved, SITES, "cpu"), unembeddings(model, SITES))
        assert_same(load_unembeddings(half, SITES, "cpu"), unembeddings(model.bfloat16(), SITES))
        fastest = LMConfig(name=str(tmp_path / "a"), dtype=LMDtype.fastest)
        as_it_is = tiny_model(family).to(getattr(torch, decided_dtype(LMDtype.fastest).value))
        assert_same(load_unembeddings(fastest, SITES, "cpu"), unembeddings(as_it_is, SITES))


def test_what_holds_no_such_tensors_is_loaded_whole(tmp_path: Path) -> None:
    save(tmp_path)
    file = tmp_path / "model.safetensors"
    torch.save(load_file(file), tmp_path / "pytorch_model.bin")
    whole = file.read_bytes()
    file.unlink()
    config = LMConfig(name=str(tmp_path))
    assert_same(load_unembeddings(config, SITES, "cpu"), unembeddings(tiny_model("llama"), SITES))
    file.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is cut short, .*; expected a saved"):
        load_unembeddings(config, SITES, "cpu")
