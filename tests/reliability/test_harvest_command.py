"""What the user of the harvest's command sees when activations are not finite."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sae_dist.apps import harvest
from tests.harvest.tiny import tokenizer
from tests.lm.tiny import tiny_model

GIVEN = (
    *("lm.name=lm", "text.path=text", "text.sequence_length=32", "sites=[embed,resid_post.1]"),
    *("tokens=3K", "store=store", "writer.shard_mib=0.3", "writer.held_out=0"),
)
Command = Callable[..., str]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Command:
    """Run the command in a folder with a text and a language model; what it said at the end."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "text").mkdir()
    lines = [f"the {a} saw {b} and {c}\n" for a in "abcdefgh" for b in "stuvw" for c in "xyz"]
    (tmp_path / "text" / "text.txt").write_text("".join(4 * lines))
    tokenizer().save_pretrained(tmp_path / "lm")

    def run(*arguments: str, fails: bool = False) -> str:
        monkeypatch.setattr("sys.argv", ["harvest", *GIVEN, *arguments])
        if fails:
            with pytest.raises(SystemExit, match="2"):
                harvest.main()
        else:
            harvest.main()
        return capsys.readouterr().err.splitlines()[-1]

    return run


def save_lm(folder: Path, factor: float, token: str) -> None:
    """A tiny language model in which one token's embedding is multiplied."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer().convert_tokens_to_ids(token)] *= factor
    model.save_pretrained(folder)


def test_a_language_model_that_overflows_is_refused_with_unit_site_and_sequence(
    tmp_path: Path, command: Command
) -> None:
    save_lm(tmp_path / "lm", float("inf"), "h")
    said = command(fails=True)
    assert re.match(r"error: unit \d+, site \S+: found NaN or infinity .* of sequence \d+; ", said)
    said = command("writer.non_finite=drop", "store=other", fails=True)
    assert re.match(r"error: unit \d+: found \d+ of \d+ trainable tokens to drop .* 2%;", said)


def test_tokens_that_are_too_long_are_dropped_and_counted(tmp_path: Path, command: Command) -> None:
    save_lm(tmp_path / "lm", 1000.0, "saw")
    said = command("writer.max_norm=9", fails=True)
    assert "trainable tokens to drop {'embed':" in said
