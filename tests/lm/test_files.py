"""A language model whose files are damaged is refused in one line that says what is wrong."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sae_dist.common.errors import UserError
from sae_dist.lm import LMConfig, SmallLMConfig, lm_size, load_lm, load_tokenizer, train_small_lm
from tests.lm.test_load import save
from tests.lm.tiny import tiny_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 52000\n"
SAFE, BIN, INDEX = "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"
Harm = Callable[[Path], object]


class SparsePattern:
    """What a pickle runs when it is read."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("was run",))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model as one file, as torch's own file, and in several."""
    home = tmp_path_factory.mktemp("saved")
    one = save(home / SAFE)
    for kind in (BIN, INDEX):
        shutil.copytree(one, home / kind)
        (home / kind / SAFE).unlink()
    torch.save(tiny_model("llama").state_dict(), home / BIN / BIN)
    tiny_model("llama").save_pretrained(home / INDEX, max_shard_size="20KB")
    return {kind: home / kind for kind in (SAFE, BIN, INDEX)}


def put(name: str, data: bytes) -> Harm:
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str, num_bytes: int) -> Harm:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:num_bytes])


def log_info(**settings: object) -> Harm:
    """Other words in config.json."""

    def harm(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return harm


FIRST = "model-00001-of-00008.safetensors"
DAMAGED: list[tuple[str, Harm, str]] = [
    (SAFE, put(SAFE, POINTER), r"model\.safetensors is a Git LFS pointer .* `git lfs pull`"),
    (SAFE, cut(SAFE, -100), r"model\.safetensors is cut short, or no file of weights: .*metadata"),
    (SAFE, cut(SAFE, 50), r"model\.safetensors is cut short"),
    (SAFE, cut(SAFE, 0), r"model\.safetensors is cut short"),
    (SAFE, lambda folder: (folder / SAFE).unlink(), r"no file named model\.safetensors"),
    (SAFE, log_info(vocab_size=70), r"lm_head\.weight of shape \[64, 32\] .*; expected \[70, 32\]"),
    (
        SAFE,
        log_info(num_hidden_layers=4),
        r"found no weights for model\.layers\.3\..* \(9 missing\)",
    ),
    (SAFE, log_info(num_attention_heads=0), r"as a configuration \(ZeroDivisionError"),
    (SAFE, log_info(num_attention_heads="4"), r"as a configuration .*expected int, got str"),
    (SAFE, log_info(hidden_act="none_such"), r"KeyError: 'none_such'"),
    (SAFE, log_info(dtype="float33"), r"as a configuration .*no attribute 'float33'"),
    (
        SAFE,
        log_info(auto_map={"AutoConfig": "a.B"}, model_type="own"),
        r"set lm\.trust_remote_code=",
    ),
    (SAFE, put("config.json", POINTER), r"config\.json is a Git LFS pointer"),
    (SAFE, put("config.json", b"\xff\xfe"), r"not a valid JSON file"),
    (SAFE, put("config.json", b"[1]"), r"as a configuration"),
    (SAFE, put("tokenizer.json", POINTER), r"tokenizer\.json is a Git LFS pointer"),
    (SAFE, put("tokenizer.json", b"{}"), r"as a tokenizer \(KeyError"),
    (SAFE, put("tokenizer_config.json", b"[]"), r"as a tokenizer \(AttributeError"),
    (SAFE, lambda folder: (folder / "tokenizer.json").unlink(), r"as a tokenizer \(Couldn't"),
    (BIN, put(BIN, POINTER), r"pytorch_model\.bin is a Git LFS pointer"),
    (BIN, cut(BIN, -500), r"pytorch_model\.bin is cut short"),
    (BIN, cut(BIN, 0), r"pytorch_model\.bin is cut short"),
    (
        BIN,
        put(BIN, pickle.dumps(SparsePattern())),
        r"pytorch_model\.bin is cut short, or no file of",
    ),
    (
        BIN,
        lambda folder: torch.save(SparsePattern(), folder / BIN),
        r"its \.bin holds more than tensors",
    ),
    (BIN, lambda folder: torch.save([1], folder / BIN), r"TypeError"),
    (INDEX, lambda folder: (folder / FIRST).unlink(), rf"No such file .*{FIRST}"),
    (INDEX, put(FIRST, POINTER), rf"{FIRST} is a Git LFS pointer"),
    (INDEX, put(INDEX, b"{}"), r"KeyError: 'weight_map'"),
    (INDEX, put(INDEX, b"[]"), r"TypeError"),
]


@pytest.mark.parametrize(("kind", "harm", "said"), DAMAGED)
def test_damage_is_told_in_one_line(
    saved: dict[str, Path], tmp_path: Path, kind: str, harm: Harm, said: str
) -> None:
    shutil.copytree(saved[kind], tmp_path / "lm")
    harm(tmp_path / "lm")
    with pytest.raises(UserError, match=said) as caught:
        load_lm(LMConfig(name=str(tmp_path / "lm")), "cpu")
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


def test_undamaged_files_load_in_every_form(saved: dict[str, Path]) -> None:
    revisions = {load_lm(LMConfig(name=str(folder))).revision for folder in saved.values()}
    assert len(revisions) == 3


def test_whoever_reads_a_model_names_his_own_setting(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(saved[SAFE], tmp_path / "lm")
    put("config.json", b"[1]")(tmp_path / "lm")
    config = LMConfig(name=str(tmp_path / "lm"))
    with pytest.raises(UserError, match="give architecture"):
        lm_size(config, {}, ["embed"])
    with pytest.raises(UserError, match=r"correct lm_name or"):
        load_lm(config, key="lm_name")
    with pytest.raises(UserError, match="correct transfer.lm_name$"):
        load_tokenizer(LMConfig(name="./gone"), key="transfer.lm_name")
    with pytest.raises(UserError, match=r"correct finetune_from or"):
        train_small_lm(SmallLMConfig(), lambda: iter(()), tmp_path / "new", config)
