"""What the user of the harvest's command sees when text or activations are not as expected."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sae_dist.apps import harvest
from sae_dist.store import open_store, verify
from tests.harvest.tiny import tokenizer
from tests.lm.tiny import tiny_model

GIVEN = (
    *("lm.name=lm", "text.path=text", "text.sequence_length=32", "sites=[embed,resid_post.1]"),
    *("tokens=3K", "store=store", "writer.held_out=0"),
)
RARE = "h"  # a word that the text has once
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
    lines = [f"the {a} saw {b} of {c}\n" for a in "abcdefg" for b in "stuvw" for c in "xyz"]
    (tmp_path / "text" / "text.txt").write_text(
        "".join([*lines, f"the {RARE} saw\n", *(5 * lines)])
    )
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


def test_what_is_not_finite_is_refused_by_unit_site_and_sequence_or_dropped_and_counted(
    tmp_path: Path, command: Command
) -> None:
    save_lm(tmp_path / "lm", float("inf"), RARE)
    said = command(fails=True)
    assert re.match(r"error: unit 0, site \S+: found NaN or infinity .* of sequence \d+; ", said)
    said = command("writer.non_finite=drop", "store=other")
    assert re.match(r"sealed other; \d+ tokens dropped: 1 at embed, \d+ at resid_post.1", said)
    assert verify("other", full=True) == []


def test_tokens_that_are_too_long_are_dropped_and_counted(tmp_path: Path, command: Command) -> None:
    save_lm(tmp_path / "lm", 1000.0, RARE)
    assert command("writer.max_norm=50").startswith("sealed store; 1 tokens dropped: 1 at embed")
    assert open_store("store").manifest.dropped["embed"] == 1


def test_too_many_outliers_are_refused(tmp_path: Path, command: Command) -> None:
    save_lm(tmp_path / "lm", 1000.0, "saw")
    said = command("writer.max_norm=50", fails=True)
    assert re.match(
        r"error: unit 0: found \d+ of \d+ trainable tokens to drop .* at most 2%;", said
    )


def test_a_text_shorter_than_asked_for_is_told_and_recorded(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(harvest, "warn", said.append)
    save_lm(tmp_path / "lm", 1.0, RARE)
    command("tokens=100K")
    corpus = open_store("store").provenance["tokens"]
    found = corpus["num_tokens"]
    assert said == [f"the text ended after {found:,} of 100,000 tokens; the store holds no more"]
    assert corpus["num_tokens_asked"] == 100_000
    assert 3_000 < found < 100_000
    command("store=other", f"tokens={found + 31}")
    assert len(said) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("text.path=./txt", "found no txt; expected a text file or folder"),
        ("text.path=a.jsonl", "no column `text`, only .'body'. in .*a.jsonl, line 1"),
        ("text.template=x", "found 0 times {document}"),
    ],
)
def test_a_mistake_about_the_text_leaves_nothing(
    tmp_path: Path, command: Command, wrong: str, said: str
) -> None:
    save_lm(tmp_path / "lm", 1.0, RARE)
    (tmp_path / "a.jsonl").write_text('{"body": "the a saw b"}')
    assert re.search(said, command(wrong, fails=True))
    assert not (tmp_path / "store").exists()
    assert command().startswith("sealed store")
