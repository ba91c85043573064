"""A language model in one file of GGUF: its own weights, tokenizer and name, in every command."""

import shutil
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch

from sae_dist.apps.harvested import load_finetune, load_harvested, require_harvested
from sae_dist.common.errors import UserError
from sae_dist.lm import Capture, LMConfig, LMDtype, foresee, load_lm, load_tokenizer, resolve
from tests.lm.test_load import save
from tests.lm.tiny import NUM_LAYERS, VOCAB, WIDTH, tiny_ids_NS, tiny_model

FILE = "tiny.Q8_0.gguf"
SITES = ["embed", "resid_post.1", "mlp_in.2"]
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
needs_gguf = pytest.mark.skipif(not find_spec("gguf"), reason="needs the package gguf")


def interleaved(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of queries or keys as llama.cpp rotates them: by neighbours instead of by halves."""
    halves = weight.reshape(num_heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def write_gguf(path: Path, architecture: str = "llama") -> None:
    """`tiny_model("llama")`, `up_proj` of it quantised, with a tokenizer of one pair of letters."""
    import gguf

    model = tiny_model("llama")
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(NUM_LAYERS)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(12)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", *(chr(33 + number) for number in range(VOCAB - 2)), "AB"])
    writer.add_token_types([3] + [1] * (VOCAB - 1))  # the first one is special
    writer.add_token_merges(["A B"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    outside = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
    for name, tensor in model.state_dict().items():
        parts = name.removesuffix(".weight").removeprefix("model.").split(".")
        weight = tensor.numpy()
        if parts[0] != "layers":
            writer.add_tensor(f"{outside[parts[0]]}.weight", weight)
            continue
        kind = NAMES[".".join(parts[2:])]
        if kind in ("attn_q", "attn_k"):
            weight = interleaved(weight, 4 if kind == "attn_q" else 2)
        if kind == "ffn_up":
            quantised = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(
                f"blk.{parts[1]}.{kind}.weight", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0
            )
        else:
            writer.add_tensor(f"blk.{parts[1]}.{kind}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> LMConfig:
    """A folder of the file alone."""
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / FILE)
    return LMConfig(name=str(folder), gguf_file=FILE)


@needs_gguf
def test_weights_are_unpacked_to_the_dtype_asked_for(config: LMConfig) -> None:
    lm, tiny = load_lm(config), tiny_model("llama")
    assert {parameter.dtype for parameter in lm.model.parameters()} == {torch.float32}
    for name, expected in tiny.state_dict().items():
        tolerance = 0.01 if "up_proj" in name else 0
        torch.testing.assert_close(lm.model.state_dict()[name], expected, rtol=0, atol=tolerance)
    found, expected = (
        Capture(model, [resolve(model, name) for name in SITES])(tiny_ids_NS())
        for model in (lm.model, tiny)
    )
    assert torch.equal(found["embed"], expected["embed"])
    torch.testing.assert_close(found["resid_post.1"], expected["resid_post.1"], rtol=0.05, atol=0.1)
    assert foresee(config, SITES, 64) == dict.fromkeys(SITES, WIDTH)
    half = load_lm(replace(config, dtype=LMDtype.bfloat16))
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}


@needs_gguf
def test_the_tokenizer_comes_from_the_same_file(config: LMConfig) -> None:
    tokenizer = load_tokenizer(config)
    assert tokenizer("AABC", add_special_tokens=False)["input_ids"] == [33, 63, 35]
    assert (tokenizer.bos_token_id, tokenizer.vocab_size) == (0, VOCAB)


@needs_gguf
def test_what_was_harvested_is_found_again_and_known_from_others(
    config: LMConfig, tmp_path: Path
) -> None:
    lm = load_lm(config)
    harvested = {**asdict(config), "commit": lm.revision}
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy(Path(config.name, FILE), moved)
    cpu = torch.device("cpu")
    again = load_harvested(harvested, str(moved), cpu, trust_remote_code=False)
    ids_NS = tiny_ids_NS()
    assert torch.equal(again.model(ids_NS).logits, lm.model(ids_NS).logits)
    save(moved)  # a model in the same folder is another
    finetune = load_finetune(harvested, str(moved), None, cpu, trust_remote_code=False)
    assert finetune.revision != lm.revision
    assert (
        load_finetune(
            harvested, str(moved), None, cpu, trust_remote_code=False, gguf_file=FILE
        ).revision
        == lm.revision
    )
    data = bytearray((moved / FILE).read_bytes())
    data[-5] ^= 1
    (moved / FILE).write_bytes(data)
    with pytest.raises(UserError, match="but the store was harvested at"):
        require_harvested(harvested, str(moved), trust_remote_code=False)


@needs_gguf
def test_a_file_of_the_hub_is_known_by_its_commit(
    config: LMConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, repository = "a" * 40, tmp_path / "models--org--model"
    (repository / "snapshots" / commit / "small").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    shutil.copy(Path(config.name, FILE), repository / "snapshots" / commit / "small" / FILE)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    lm = load_lm(LMConfig(name="org/model", gguf_file=f"small/{FILE}"))
    assert (lm.revision, lm.tokenizer.vocab_size) == (commit, VOCAB)
    with pytest.raises(UserError, match="org/model does not load as a language model"):
        load_lm(LMConfig(name="org/model", gguf_file=FILE))


@needs_gguf
def test_what_does_not_load_is_told_in_one_line(config: LMConfig, tmp_path: Path) -> None:
    write_gguf(tmp_path / "alien.gguf", "mamba99")
    (tmp_path / "cut.gguf").write_bytes(Path(config.name, FILE).read_bytes()[:500])
    (tmp_path / "none.gguf").write_bytes(b"no GGUF")
    here = str(tmp_path)
    for other, said in (
        (replace(config, gguf_file="tiny.gguf"), f"found no .*tiny.gguf; did you mean {FILE}"),
        (LMConfig(name=here, gguf_file="alien.gguf"), "architecture mamba99 is not supported"),
        (LMConfig(name=here, gguf_file="cut.gguf"), "does not load as a configuration"),
        (LMConfig(name=here, gguf_file="none.gguf"), "does not load as a configuration"),
        (replace(config, dtype=LMDtype.auto), "lm.dtype=auto.*expected a named dtype"),
        (replace(config, tensor=2), "lm.tensor=2; expected .*whole matrices"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            load_lm(other)
        assert "\n" not in str(caught.value)


def test_without_the_package_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_dist.lm.packages.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package gguf; run pip install 'sae-dist\[gguf"):
        load_lm(LMConfig(name=str(tmp_path), gguf_file=FILE))
