"""The pages of a run whose language model is on disk."""

from dataclasses import asdict
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, PreTrainedTokenizerFast

from sae_dist.apps.pages import write_pages
from sae_dist.common.errors import UserError
from sae_dist.lm import LMConfig
from tests.latents.made_up import VOCABULARY, write_made_up
from tests.pages.test_write import read


def test_tokens_are_those_of_the_language_model(tmp_path: Path) -> None:
    words = {f"w{i}": i for i in range(VOCABULARY)}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="w0").save_pretrained(tmp_path / "lm")
    LlamaConfig().save_pretrained(tmp_path / "lm")
    lm = asdict(LMConfig(name="./moved")) | {"commit": "0" * 40}
    write_made_up(tmp_path / "run", {"a": 8}, lm=lm)
    page = write_pages(tmp_path / "run", str(tmp_path / "lm"), trust_remote_code=False)
    assert page == tmp_path / "run" / "latents" / "index.html"
    vocabulary, _ = read(tmp_path / "run", "vocabulary")
    assert vocabulary["bytes"].tobytes() == "".join(words).encode()
    with pytest.raises(UserError, match="moved"):
        write_pages(tmp_path / "run", None, trust_remote_code=False)


def test_without_a_language_model_there_is_no_vocabulary(tmp_path: Path) -> None:
    write_made_up(tmp_path, {"a": 8})
    page = write_pages(tmp_path, None, trust_remote_code=False)
    assert not (page.parent / "pages" / "vocabulary.js").exists()
