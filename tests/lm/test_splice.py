import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from sae_dist.common.errors import UserError
from sae_dist.lm import Capture, next_token_loss_NS, resolve, splice
from sae_dist.lm.splice import Replacement
from tests.lm.tiny import OPTIONS, tiny_ids_NS, tiny_model

NAMES = ("embed", "resid_pre.1", "resid_post.1", "mlp_in.1", "mlp_out.1", "attn_z.1")
NONE_KEPT = torch.zeros(2, 7, dtype=torch.bool)


def spliced_logits(
    model: PreTrainedModel,
    read: str,
    write: str,
    replacement: Replacement,
    keep_NS: Tensor = NONE_KEPT,
) -> Tensor:
    sites = resolve(model, read), resolve(model, write)
    with splice(model, *sites, replacement, keep_NS):
        return model(tiny_ids_NS()).logits


@pytest.mark.parametrize("family", OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_the_identity_changes_nothing_at_all(family: str, name: str) -> None:
    model = tiny_model(family)
    clean = model(tiny_ids_NS()).logits
    assert torch.equal(spliced_logits(model, name, name, lambda x, y: x.clone()), clean)
    assert torch.equal(model(tiny_ids_NS()).logits, clean)


@pytest.mark.parametrize("family", OPTIONS)
def test_zero_ablation_of_mlp_out_is_a_model_without_that_mlp(family: str) -> None:
    model = tiny_model(family)
    clean = model(tiny_ids_NS()).logits
    zeroed = spliced_logits(model, "mlp_out.1", "mlp_out.1", lambda x, y: torch.zeros_like(y))
    layer = model.get_submodule(resolve(model, "resid_post.1").module_path)
    layer.mlp.register_forward_hook(lambda *args: torch.zeros_like(args[-1]))
    if family.startswith("gemma"):
        assert layer.post_feedforward_layernorm(torch.zeros(32)).abs().max() == 0
    assert torch.equal(zeroed, model(tiny_ids_NS()).logits)
    assert not torch.equal(zeroed, clean)


@pytest.mark.parametrize("family", OPTIONS)
def test_a_transcoder_reads_the_mlps_input_and_writes_its_output(family: str) -> None:
    model = tiny_model(family)
    ids_NS = tiny_ids_NS()
    layer = model.get_submodule(resolve(model, "resid_post.1").module_path)
    sites = [resolve(model, name) for name in ("mlp_in.1", "mlp_out.1")]
    acts = Capture(model, sites)(ids_NS)
    seen = {}

    def transcoder(x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
        seen.update({"mlp_in.1": x_NSD, "mlp_out.1": y_NSE})
        mlp_out = layer.mlp.forward(x_NSD)  # not a call: that would pass the site again
        is_gemma = family.startswith("gemma")
        return layer.post_feedforward_layernorm.forward(mlp_out) if is_gemma else mlp_out

    clean = model(ids_NS).logits
    torch.testing.assert_close(spliced_logits(model, "mlp_in.1", "mlp_out.1", transcoder), clean)
    assert all(torch.equal(seen[name], acts[name]) for name in acts)


def test_kept_positions_keep_the_models_own_activation() -> None:
    model = tiny_model("llama")
    clean = model(tiny_ids_NS()).logits
    keep_NS = torch.zeros(2, 7, dtype=torch.bool)
    keep_NS[:, :3] = True
    spliced = spliced_logits(model, "resid_post.1", "resid_post.1", lambda x, y: x + 1, keep_NS)
    assert torch.equal(spliced[:, :3], clean[:, :3])
    assert (spliced[:, 3:] != clean[:, 3:]).any(-1).all()
    all_kept = torch.ones(2, 7, dtype=torch.bool)
    kept = spliced_logits(model, "mlp_in.1", "mlp_out.1", lambda x, y: y * torch.nan, all_kept)
    assert torch.equal(kept, clean)


def test_splices_nest_and_serve_many_passes() -> None:
    model = tiny_model("llama")
    sites = [resolve(model, name) for name in ("resid_post.0", "resid_post.1")]
    clean = model(tiny_ids_NS()).logits

    def own(x: Tensor, y: Tensor) -> Tensor:
        return y.clone()

    with splice(model, sites[0], sites[1], own, NONE_KEPT):
        with splice(model, sites[0], sites[0], own, NONE_KEPT):
            assert torch.equal(model(tiny_ids_NS()).logits, clean)
        assert torch.equal(model(tiny_ids_NS()).logits, clean)


def test_gradients_reach_the_spliced_activation() -> None:
    model = tiny_model("gpt2")
    leaves = []

    def leaf(x_NSD: Tensor, y_NSD: Tensor) -> Tensor:
        leaves.append(x_NSD.detach().requires_grad_())
        return leaves[-1]

    logits = spliced_logits(model, "resid_post.1", "resid_post.1", leaf)
    (gradient,) = torch.autograd.grad(logits[:, -1, 0].sum(), leaves)
    assert (gradient[:, -1].abs().sum(-1) > 0).all()


@pytest.mark.parametrize(
    ("read", "write", "replacement", "said"),
    [
        ("mlp_out.1", "mlp_in.1", lambda x, y: x, "mlp_in.1 is computed before mlp_out.1"),
        ("mlp_in.1", "mlp_out.1", lambda x, y: x[..., :1], r"shape \[2, 7, 1\]"),
    ],
)
def test_a_splice_that_cannot_be_is_refused(
    read: str, write: str, replacement: Replacement, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        spliced_logits(tiny_model("llama"), read, write, replacement)


def test_next_token_loss_is_the_cross_entropy_of_each_predicted_token() -> None:
    model, ids_NS = tiny_model("llama"), tiny_ids_NS()
    loss_NS = next_token_loss_NS(model, ids_NS.int())
    logits_NSV = model(ids_NS).logits
    expected = F.cross_entropy(logits_NSV[:, :-1].flatten(0, 1), ids_NS[:, 1:].flatten())
    assert loss_NS.shape == (2, 6)
    assert loss_NS.dtype == torch.float32
    torch.testing.assert_close(loss_NS.mean(), expected)
    torch.testing.assert_close(loss_NS[1, 3], F.cross_entropy(logits_NSV[1, 3], ids_NS[1, 4]))
