import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sae_dist.common.errors import UserError
from sae_dist.lm import Capture, resolve, site_widths, truncate
from sae_dist.lm.families import decoder_of, family_of
from tests.lm.tiny import NUM_LAYERS, OPTIONS, WIDTH, tiny_ids_NS, tiny_model, tiny_multimodal_model

LAYER_SITES = ("resid_pre", "resid_post", "mlp_in", "mlp_out", "attn_z")
ALL_SITES = ["embed", *(f"{site}.{layer}" for layer in range(NUM_LAYERS) for site in LAYER_SITES)]


def capture(model: PreTrainedModel, *names: str, **options) -> dict[str, Tensor]:
    return Capture(model, [resolve(model, name) for name in names], **options)(tiny_ids_NS())


def count_calls(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    return decoder_of(model)[1].get_submodule(family_of(model).layers)


@pytest.mark.parametrize("family", OPTIONS)
def test_residual_stream_is_what_transformers_reports(family: str) -> None:
    model = tiny_model(family)
    acts = capture(model, *ALL_SITES)
    output = model(tiny_ids_NS(), output_hidden_states=True)
    for layer in range(NUM_LAYERS):
        torch.testing.assert_close(acts[f"resid_pre.{layer}"], output.hidden_states[layer])
    for layer in range(NUM_LAYERS - 1):
        assert torch.equal(acts[f"resid_post.{layer}"], acts[f"resid_pre.{layer + 1}"])
    head = model.get_output_embeddings()
    norm = next(module for name, module in model.named_modules() if name.endswith(FINAL_NORMS))
    last_logits = head(norm(acts[f"resid_post.{NUM_LAYERS - 1}"]))
    cap = getattr(model.config, "final_logit_softcapping", None)
    last_logits = cap * torch.tanh(last_logits / cap) if cap else last_logits
    torch.testing.assert_close(last_logits, output.logits)


FINAL_NORMS = ("model.norm", "ln_f", "final_layer_norm")


@pytest.mark.parametrize("family", OPTIONS)
def test_a_layers_parts_add_up_to_its_output(family: str) -> None:
    """Every site of a layer, by the formula of its family from the one before."""
    model = tiny_model(family)
    acts = capture(model, *ALL_SITES)
    for index, layer in enumerate(layers_of(model)):
        at = {site: acts[f"{site}.{index}"] for site in LAYER_SITES}
        is_gemma = family.startswith("gemma")
        attention = layer.get_submodule(family_of(model).attention_out)(at["attn_z"])
        if is_gemma:
            attention = layer.post_attention_layernorm(attention)
        middle = at["resid_pre"] + attention
        if family == "gpt2":
            norm = layer.ln_2
        else:
            norm = layer.pre_feedforward_layernorm if is_gemma else layer.post_attention_layernorm
        mlp_in = norm(at["resid_pre"] if family == "gpt_neox" else middle)
        mlp_out = layer.mlp(mlp_in)
        if is_gemma:
            mlp_out = layer.post_feedforward_layernorm(mlp_out)
        torch.testing.assert_close(at["mlp_in"], mlp_in)
        torch.testing.assert_close(at["mlp_out"], mlp_out)
        torch.testing.assert_close(at["resid_post"], middle + mlp_out)


@pytest.mark.parametrize("family", OPTIONS)
def test_embed_is_the_embedding_modules_output(family: str) -> None:
    model = tiny_model(family)
    embedded = model.get_input_embeddings()(tiny_ids_NS())
    assert torch.equal(capture(model, "embed")["embed"], embedded)


def test_one_pass_serves_all_sites_in_the_order_asked_for() -> None:
    model = tiny_model("qwen3")
    calls = count_calls(layers_of(model)[0])
    acts = capture(model, *reversed(ALL_SITES))
    assert len(calls) == 1
    assert list(acts) == ALL_SITES[::-1]
    for name in ALL_SITES:
        assert torch.equal(capture(model, name)[name], acts[name])


def test_the_pass_stops_after_the_deepest_site_and_never_reaches_the_head() -> None:
    model = tiny_model("llama")
    in_layer, next_layer = count_calls(layers_of(model)[1].mlp), count_calls(layers_of(model)[2])
    head = count_calls(model.lm_head)
    capture(model, "mlp_in.1", "embed")
    assert (in_layer, next_layer, head) == ([], [], [])
    capture(model, "mlp_out.1", "embed")
    assert (in_layer, next_layer, head) == ([1], [], [])


def test_a_pass_that_may_not_be_stopped_runs_to_its_end_without_the_head() -> None:
    model = tiny_model("llama")
    last_layer, head = count_calls(layers_of(model)[2]), count_calls(model.lm_head)
    stopped = capture(model, "mlp_in.1")
    whole = capture(model, "mlp_in.1", stop=False)
    assert (last_layer, head) == ([1], [])
    assert torch.equal(stopped["mlp_in.1"], whole["mlp_in.1"])


def test_an_engine_can_be_called_in_place_of_the_model() -> None:
    model = tiny_model("llama")
    calls = []

    def engine(input_ids: Tensor) -> None:
        calls.append(input_ids)
        model(input_ids)

    acts = capture(model, "resid_post.0", stop=False, forward=engine)
    assert len(calls) == 1
    assert torch.equal(acts["resid_post.0"], capture(model, "resid_post.0")["resid_post.0"])


def test_no_hook_and_no_graph_is_left_behind() -> None:
    model = tiny_model("gemma3_text").requires_grad_(True)
    before = model(tiny_ids_NS()).logits
    acts = capture(model, "resid_post.0", "attn_z.1")
    assert not any(acts_NSD.requires_grad for acts_NSD in acts.values())
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(tiny_ids_NS()).logits, before)


def test_a_multimodal_model_is_captured_from_text_alone() -> None:
    model = tiny_multimodal_model()
    acts = capture(model, "resid_pre.2")
    hidden = model.model.language_model(tiny_ids_NS(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(acts["resid_pre.2"], hidden[2])


def test_modules_may_return_tuples_and_take_keywords() -> None:
    model = tiny_model("llama")
    attention = "model.layers.1.self_attn"
    acts = capture(model, f"{attention}.input", f"{attention}.output", "attn_z.1")
    layer = layers_of(model)[1]
    torch.testing.assert_close(
        acts[f"{attention}.output"], layer.self_attn.o_proj(acts["attn_z.1"])
    )
    normed = layer.input_layernorm(capture(model, "resid_pre.1")["resid_pre.1"])
    torch.testing.assert_close(acts[f"{attention}.input"], normed)


def test_activations_are_kept_as_they_were_though_the_model_writes_in_place() -> None:
    model = tiny_model("llama")
    expected = capture(model, "resid_post.0")["resid_post.0"]
    layers_of(model)[1].register_forward_pre_hook(lambda _, args: (args[0].mul_(2),))
    acts = capture(model, "resid_post.0", "resid_post.2")
    assert torch.equal(acts["resid_post.0"], expected)


def test_a_site_without_hidden_states_or_never_reached_is_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(UserError, match="expected hidden states"):
        capture(model, "model.embed_tokens.input")
    with pytest.raises(UserError, match=r"found no activations at lm_head\.input"):
        capture(model, "lm_head.input", "embed")


def test_widths_are_measured() -> None:
    model = tiny_model("llama")
    names = ["embed", "attn_z.0", "mlp_out.1", "model.layers.0.mlp.up_proj.output"]
    sites = [resolve(model, name) for name in names]
    widths = site_widths(Capture(model, sites), "cpu")
    assert widths == dict(zip(names, [WIDTH, 48, WIDTH, 48], strict=True))


@pytest.mark.parametrize("family", OPTIONS)
def test_truncating_keeps_what_the_sites_hold_bit_identical(family: str) -> None:
    model = tiny_model(family)
    names = ["embed", "resid_pre.0", "mlp_out.1", "attn_z.1"]
    before = capture(model, *names)
    assert truncate(model, [resolve(model, name) for name in names]) == 1
    assert len(layers_of(model)) == 2
    for stop in (True, False):
        after = capture(model, *names, stop=stop)
        assert all(torch.equal(after[name], before[name]) for name in names)


@pytest.mark.parametrize("names", [["resid_post.0", "model.norm.output"], ["resid_post.2"], []])
def test_nothing_is_truncated_that_a_site_needs(names: list[str]) -> None:
    model = tiny_model("llama")
    assert truncate(model, [resolve(model, name) for name in names]) == 0
    assert len(layers_of(model)) == NUM_LAYERS
