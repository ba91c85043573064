"""Sizes of language models from their configuration are those of the models."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from sae_dist.apps import cli
from sae_dist.common.errors import UserError
from sae_dist.config import conf_folder
from sae_dist.lm import Capture, LMConfig, lm_size, resolve, site_widths
from tests.lm.tiny import NUM_LAYERS, OPTIONS, WIDTH, tiny_model

SITES = ["resid_post.1", "mlp_in.1", "mlp_out.1", "attn_z.1"]
PARAMETERS = {  # what transformers counts with the weights of the Hub
    "gemma_2_2b": 2_614_341_888,
    "gemma_2_9b": 9_241_705_984,
    "gemma_2_27b": 27_227_128_320,
    "gemma_3_1b": 999_885_952,
    "gemma_3_270m": 268_098_176,
    "gpt2": 124_439_808,
    "llama_3_2_1b": 1_235_814_400,
    "pythia_160m": 162_322_944,
    "pythia_1_4b": 1_414_647_808,
    "pythia_410m": 405_334_016,
    "pythia_70m": 70_426_624,
    "qwen_2_5_0_5b": 494_032_768,
    "qwen_3_0_6b": 596_049_920,
    "qwen_3_1_7b": 1_720_574_976,
    "qwen_3_8b": 8_190_735_360,
    "smollm2_135m": 134_515_008,
}


def described(family: str) -> dict:
    options = {key: value for key, value in OPTIONS[family].items() if value is not None}
    return {"model_type": family, **options}


def matrices(model: PreTrainedModel, num_layers: int) -> int:
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    parameters = (p for layer in layers[:num_layers] for p in layer.parameters())
    return sum(p.numel() for p in parameters if p.ndim == 2)


@pytest.mark.parametrize("name", PARAMETERS)
def test_presets_have_the_published_number_of_parameters(name: str) -> None:
    config = cli.compose_config("harvest", [f"lm={name}", "text=pile", "store=a", "sites=[embed]"])
    harvest = cli.to_dataclass(config)
    assert lm_size(harvest.lm, harvest.architecture, ["embed"]).parameters == PARAMETERS[name]


def test_every_preset_is_known() -> None:
    presets = {path.stem for path in (conf_folder() / "lm").glob("*.yaml")}
    assert presets - {"custom"} == PARAMETERS.keys()


@pytest.mark.parametrize("family", OPTIONS)
def test_a_described_model_is_as_large_as_a_made_one(family: str) -> None:
    model = tiny_model(family)
    size = lm_size(LMConfig(name="nowhere"), described(family), SITES)
    sites = [resolve(model, name) for name in SITES]
    assert size.parameters == sum(p.numel() for p in model.parameters())
    assert size.widths == site_widths(Capture(model, sites), "cpu")
    assert (size.num_layers, size.d_model, size.bytes_per_value) == (2, WIDTH, 4)
    assert size.matrix_parameters == matrices(model, 2) < matrices(model, NUM_LAYERS)
    assert size.widths["attn_z.1"] == size.d_attention


def test_a_folder_is_believed_before_a_description(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    size = lm_size(LMConfig(name=str(tmp_path)), described("gpt2"), SITES)
    assert size == lm_size(LMConfig(name="nowhere"), described("llama"), SITES)


def test_flops_are_two_a_weight_and_attention() -> None:
    size = lm_size(LMConfig(name="nowhere"), described("llama"), ["mlp_in.0"])
    heads, kv, d_head, d_mlp = 4, 2, 12, 48
    layer = WIDTH * d_head * (2 * heads + 2 * kv) + 3 * WIDTH * d_mlp
    assert size.matrix_parameters == layer
    assert size.flops_per_token(10) == 2 * layer + 4 * 10 * heads * d_head


def test_an_unknown_model_or_site_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="as a configuration .*; or give architecture"):
        lm_size(LMConfig(name=str(tmp_path)), {}, SITES)
    with pytest.raises(UserError, match="expected a layer from 0 to 2"):
        lm_size(LMConfig(name="nowhere"), described("llama"), ["resid_post.3"])
