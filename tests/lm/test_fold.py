import pytest
import torch

from sae_dist.common.errors import UserError
from sae_dist.lm import Capture, fold_rms_norms, resolve
from tests.lm.tiny import NUM_LAYERS, RMS_FAMILIES, WIDTH, tiny_ids_NS, tiny_model

MLP_INPUTS = [f"mlp_in.{layer}" for layer in range(NUM_LAYERS)]


@pytest.mark.parametrize("family", RMS_FAMILIES)
def test_folding_keeps_the_function_and_bares_the_mlps_input(family: str) -> None:
    model, ids_NS = tiny_model(family), tiny_ids_NS()
    before = model(ids_NS).logits
    fold_rms_norms(model)
    torch.testing.assert_close(model(ids_NS).logits, before, rtol=1e-5, atol=1e-5)
    acts = Capture(model, [resolve(model, name) for name in MLP_INPUTS])(ids_NS)
    for name in MLP_INPUTS:
        norms_NS = acts[name].norm(dim=-1)
        bare_NS = torch.full_like(norms_NS, WIDTH**0.5)
        torch.testing.assert_close(norms_NS, bare_NS, rtol=1e-4, atol=0)  # the norm's own epsilon


def test_folding_twice_changes_nothing_more() -> None:
    model = tiny_model("gemma2").to(torch.bfloat16)
    fold_rms_norms(model)
    once = {name: value.clone() for name, value in model.state_dict().items()}
    fold_rms_norms(model)
    assert all(torch.equal(value, once[name]) for name, value in model.state_dict().items())
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_layer_norms_are_refused_with_the_reason(family: str) -> None:
    with pytest.raises(UserError, match=f"type {family}.*centre and shift"):
        fold_rms_norms(tiny_model(family))
