"""A direction's effect on the logits is what the model's last steps make of it."""

import pytest
import torch

from sae_dist.lm import unembedding
from sae_dist.lm.families import FAMILIES, decoder_of
from tests.lm.tiny import OPTIONS, WIDTH, tiny_model


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
