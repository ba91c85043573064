import pytest

from sae_dist.common.errors import UserError
from sae_dist.lm import End, Site, resolve
from tests.lm.tiny import tiny_model, tiny_multimodal_model


@pytest.mark.parametrize(
    ("family", "name", "path", "end"),
    [
        ("gpt2", "attn_z.1", "transformer.h.1.attn.c_proj", End.input),
        ("gpt_neox", "mlp_out.2", "gpt_neox.layers.2.mlp", End.output),
        ("llama", "resid_pre.0", "model.layers.0", End.input),
        ("gemma2", "mlp_out.1", "model.layers.1.post_feedforward_layernorm", End.output),
        ("gemma2", "mlp_in.1", "model.layers.1.mlp", End.input),
    ],
)
def test_short_names_stand_for_modules(family: str, name: str, path: str, end: End) -> None:
    layer = int(name[-1])
    assert resolve(tiny_model(family), name) == Site(name, path, end, layer)


def test_short_names_work_in_a_model_without_its_head() -> None:
    model = tiny_model("llama").base_model
    assert resolve(model, "embed") == Site("embed", "embed_tokens", End.output, None)


def test_short_names_find_the_text_decoder_inside_a_multimodal_model() -> None:
    site = resolve(tiny_multimodal_model(), "resid_post.1")
    assert site.module_path == "model.language_model.layers.1"


def test_any_module_is_a_site_by_its_path() -> None:
    model = tiny_model("llama")
    path = "model.layers.1.self_attn.q_proj"
    assert resolve(model, f"{path}.output") == Site(f"{path}.output", path, End.output, 1)
    assert resolve(model, "model.norm.input").layer is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resid_post.3", "a layer from 0 to 2"),
        ("mlp_in.-1", "a layer from 0 to 2"),
        ("resid_pots.1", "did you mean resid_post.1"),
        ("model.layers.1.mpl.output", r"did you mean model.layers.1.mlp.output"),
        ("model.layers.1.mlp", r"did you mean model.layers.1.mlp.(out|in)put"),
        ("model.layers.7.mlp.output", "did you mean model.layers"),
        ("%", "named_modules"),
    ],
)
def test_a_name_that_stands_for_nothing_is_refused_with_the_nearest(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        resolve(tiny_model("llama"), name)


def test_an_unknown_family_has_no_short_names_but_paths() -> None:
    model = tiny_model("llama")
    model.base_model.config.model_type = "novel"
    with pytest.raises(UserError, match="of type novel, which has no short names"):
        resolve(model, "resid_post.1")
    assert resolve(model, "model.layers.1.output").layer == 1
    with pytest.raises(UserError, match=r"did you mean model\.layers\.1\.output"):
        resolve(model, "model.layer.1.output")
