"""What a configuration tells is known before a weight is read."""

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoConfig, PreTrainedTokenizerFast

from sae_dist.common.errors import UserError
from sae_dist.lm import LMConfig, foresee, most_positions
from tests.lm.test_size import described
from tests.lm.tiny import OPTIONS, WIDTH

SITES = ["resid_post.1", "mlp_in.1", "mlp_out.1", "attn_z.1"]
BERT: dict = {"model_type": "bert", "hidden_size": 24, "num_hidden_layers": 1, "vocab_size": 64}
BERT |= {"num_attention_heads": 2, "intermediate_size": 8}
MOE: dict = {"model_type": "mixtral", "num_local_experts": 2, **described("mistral")}
MOE |= {"model_type": "mixtral"}


def config_alone(folder: Path, settings: dict, num_words: int = 2) -> LMConfig:
    """A folder with config.json and a tokenizer, and no weights at all."""
    auto_class = "AutoModelForMaskedLM" if "bert" in settings["model_type"] else None
    AutoConfig.for_model(**settings).save_pretrained(folder)
    words = {f"<{number}>": number for number in range(num_words)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<0>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<0>").save_pretrained(folder)
    return LMConfig(name=str(folder), auto_class=auto_class or "AutoModelForCausalLM")


@pytest.mark.parametrize("family", OPTIONS)
def test_widths_are_known_without_weights(tmp_path: Path, family: str) -> None:
    widths = foresee(config_alone(tmp_path, described(family)), SITES, 8)
    d_attention = WIDTH if family in ("gpt2", "gpt_neox", "qwen2") else 48
    assert widths == {**dict.fromkeys(SITES[:3], WIDTH), "attn_z.1": d_attention}


def test_experts_are_passed_without_values(tmp_path: Path) -> None:
    site = "model.layers.1.output"
    assert foresee(config_alone(tmp_path, MOE), [site], 8) == {site: WIDTH}


ROPE: dict = {"max_position_embeddings": 64, "rope_theta": 1e4}
POSITIONS: list[tuple[dict, int]] = [
    ({**described("gpt2"), "n_positions": 64}, 64),
    ({**described("llama"), **ROPE}, 64),
    ({**BERT, "max_position_embeddings": 64}, 64),
    ({**BERT, "model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1}, 64),
    ({**described("llama"), **ROPE, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 256),
]


@pytest.mark.parametrize(("settings", "most"), POSITIONS)
def test_longer_sequences_than_the_model_knows_are_refused(
    tmp_path: Path, settings: dict, most: int
) -> None:
    config, no_sites = config_alone(tmp_path, settings), ["embed"]
    if "bert" in settings["model_type"]:
        no_sites = [f"{settings['model_type']}.embeddings.output"]
    foresee(config, no_sites, most)
    with pytest.raises(UserError, match=r"harvest.text.sequence_length needs \d+ positions; exp"):
        foresee(config, no_sites, most + 1, "harvest.")
    further = replace(config, extrapolate=True)
    if "rope_theta" in settings:
        foresee(further, no_sites, most + 1)
    else:
        with pytest.raises(UserError, match=f"expected at most {most}|expected at most 66"):
            foresee(further, no_sites, most + 1)


def test_positions_that_adapt_or_are_none_have_no_end() -> None:
    dynamic: dict = {**ROPE, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
    assert most_positions(AutoConfig.for_model(**described("llama"), **dynamic)) is None
    assert most_positions(AutoConfig.for_model("bloom")) is None
    assert most_positions(AutoConfig.for_model("gpt_oss")) == 131072  # 32 × 4,096 originally


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    config = config_alone(tmp_path / "a", described("llama"), num_words=65)
    with pytest.raises(UserError, match=r"ids up to 64 .*; expected less than 64, the rows"):
        foresee(config, SITES, 8)
    config = config_alone(tmp_path / "b", described("gpt2"))
    for other, said in (
        (replace(config, fold_norms=True), r"set lm\.fold_norms=false"),
        (replace(config, tensor=2), r"lm\.tensor=2 for a model of type gpt2"),
        (replace(config, auto_class="AutoModelFor"), r"found lm\.auto_class=AutoModelFor"),
    ):
        with pytest.raises(UserError, match=said):
            foresee(other, SITES, 8)
    with pytest.raises(UserError, match="expected a layer from 0 to 2"):
        foresee(config, ["resid_post.3"], 8)
    llama = replace(config_alone(tmp_path / "c", described("llama")), tensor=3)
    with pytest.raises(UserError, match=r"lm\.tensor=3 with .*'num_attention_heads': 4"):
        foresee(llama, SITES, 8)
    assert foresee(replace(llama, tensor=2), SITES, 8) == {
        **dict.fromkeys(SITES[:3], WIDTH),
        "attn_z.1": 48,
    }
