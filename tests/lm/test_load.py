import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from sae_dist.common.errors import UserError
from sae_dist.lm import Capture, LMConfig, LMDtype, compile_layers, load_lm, resolve
from tests.lm.tiny import tiny_ids_NS, tiny_model

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


def save(folder: Path, family: str = "llama") -> Path:
    tiny_model(family).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "one": 1}, unk_token="<s>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)
    return folder


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the Hub's cache holds after `org/model` was downloaded at `main` and `v1`; offline."""
    repository = tmp_path / "hub" / "models--org--model"
    (repository / "refs").mkdir(parents=True)
    for name, commit in COMMITS.items():
        (repository / "refs" / name).write_text(commit)
        save(repository / "snapshots" / commit, "llama" if name == "main" else "qwen3")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return repository


def test_a_folder_is_loaded_frozen_in_eval_mode_without_cache(tmp_path: Path) -> None:
    lm = load_lm(LMConfig(name=str(save(tmp_path / "lm"))), "cpu")
    assert torch.equal(lm.model(tiny_ids_NS()).logits, tiny_model("llama")(tiny_ids_NS()).logits)
    assert not lm.model.training
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    assert lm.model(tiny_ids_NS()).past_key_values is None
    assert lm.tokenizer.bos_token_id == 0


def test_dtype_attention_and_folding_are_as_configured(tmp_path: Path) -> None:
    config = LMConfig(name=str(save(tmp_path / "lm")), dtype=LMDtype.bfloat16, fold_norms=True)
    lm = load_lm(replace(config, attn_implementation="eager"))
    assert lm.model.dtype == torch.bfloat16
    assert lm.model.config._attn_implementation == "eager"
    assert (lm.model.model.layers[0].post_attention_layernorm.weight == 1).all()
    assert load_lm(replace(config, dtype=LMDtype.auto)).model.dtype == torch.float32


def test_a_folders_revision_changes_with_its_weights_and_with_nothing_else(tmp_path: Path) -> None:
    folder = save(tmp_path / "lm")
    config = LMConfig(name=str(folder))
    first = load_lm(config).revision
    assert len(first) == 64
    (folder / "README.md").write_text("words")
    assert load_lm(replace(config, dtype=LMDtype.bfloat16)).revision == first
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert load_lm(config).revision != first


@pytest.mark.parametrize(("revision", "ref"), [(None, "main"), ("main", "main"), ("v1", "v1")])
def test_a_name_on_the_hub_is_loaded_at_one_commit(
    hub_cache: Path, revision: str | None, ref: str
) -> None:
    lm = load_lm(LMConfig(name="org/model", revision=revision))
    assert lm.revision == COMMITS[ref]
    assert lm.model.config.model_type == ("llama" if ref == "main" else "qwen3")
    again = load_lm(LMConfig(name="org/model", revision=lm.revision))
    assert again.revision == lm.revision


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "org/other"}, "lm.name"),
        ({"name": "org/model", "revision": "v9"}, "correct lm.name or its revision"),
        ({"name": "org/mo del"}, "does not load"),
        ({"name": "org/model", "auto_class": "AutoModelForCausalML"}, "AutoModelForCausalLM"),
        ({"name": "org/model", "auto_class": "set_seed"}, "found lm.auto_class=set_seed"),
        ({"name": "org/model", "attn_implementation": "none_such"}, "none_such"),
        ({"name": "./missing"}, "found no folder missing"),
    ],
)
def test_what_does_not_load_is_told_in_one_line(
    hub_cache: Path, options: dict[str, str], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_lm(LMConfig(**options))
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_and_one_that_cannot_be_folded_are_refused(
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="does not load"):
        load_lm(LMConfig(name=str(tmp_path / "empty")))
    with pytest.raises(UserError, match=r"set lm\.fold_norms=false"):
        load_lm(LMConfig(name=str(save(tmp_path / "gpt2", "gpt2")), fold_norms=True))


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    folder = save(tmp_path / "lm")
    tiny_model("llama").base_model.save_pretrained(folder)
    with pytest.raises(UserError, match=r"found no weights for lm_head\.weight"):
        load_lm(LMConfig(name=str(folder)))
    lm = load_lm(LMConfig(name=str(folder), auto_class="AutoModel"))
    assert torch.equal(lm.model.embed_tokens.weight, tiny_model("llama").model.embed_tokens.weight)


def test_the_config_composes() -> None:
    composed = OmegaConf.merge(OmegaConf.structured(LMConfig), {"name": "x", "dtype": "bfloat16"})
    assert OmegaConf.to_object(composed) == LMConfig(name="x", dtype=LMDtype.bfloat16)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile takes a C++ compiler")
def test_compiled_layers_show_every_site_what_others_show(tmp_path: Path) -> None:
    folder, names = save(tmp_path / "lm"), ("embed", "mlp_in.1", "attn_z.1", "resid_post.0")
    found = []
    for compile_ in (False, True):
        lm = load_lm(LMConfig(name=str(folder), compile=compile_))
        sites = [resolve(lm.model, name) for name in names]
        if compile_:
            assert compile_layers(lm.model, sites) == lm.model.config.num_hidden_layers - 1
        found.append(Capture(lm.model, sites)(tiny_ids_NS()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=2e-6)
