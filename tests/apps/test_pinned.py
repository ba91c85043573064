"""Which commits of the Hub a harvest reads, and what is looked at before anything is written."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from sae_dist.apps import pinned
from sae_dist.apps.pinned import on_one, pinned_sources
from sae_dist.common.errors import UserError
from sae_dist.config import HarvestConfig
from sae_dist.lm import LMConfig, LMDtype
from sae_dist.parallel import World
from sae_dist.store import StoreConfig, StoreWriter
from sae_dist.text import TextConfig
from tests.harvest.tiny import tokenizer
from tests.processes import run_on

LM = LMConfig(name="org/lm")
TEXT = TextConfig(path="org/data", sequence_length=8)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that was started when both were at an old commit; the Hub has a new one since."""
    monkeypatch.setattr(pinned, "load_tokenizer", lambda config: tokenizer())
    monkeypatch.setattr(pinned, "documents", lambda config: iter(["the a saw"]))
    monkeypatch.setattr(pinned, "pin", lambda text: replace(text, commit=text.commit or "new"))
    about = {
        "lm": {**asdict(LM), "commit": "old lm"},
        "text": {**asdict(TEXT), "commit": "old text"},
    }
    StoreWriter.create(tmp_path / "store", {"embed": 8}, 8, StoreConfig(), about, 100)
    return tmp_path / "store"


def revisions(
    store: Path, lm: LMConfig = LM, text: TextConfig = TEXT
) -> tuple[str | None, str | None]:
    config = HarvestConfig(store=str(store), sites=["embed"], lm=lm, text=text)
    found = pinned_sources(config)
    return found[0].revision, found[1].commit


def test_a_started_store_keeps_the_commits_it_was_started_with(store: Path) -> None:
    assert revisions(store) == ("old lm", "old text")
    assert revisions(store.parent / "another") == (None, "new")
    assert not (store.parent / "another").exists()


def test_what_is_asked_for_otherwise_is_not_pinned(store: Path) -> None:
    asked_lm, asked_text = LMConfig(name="org/lm", revision="v2"), TextConfig(path="org/data")
    assert revisions(store, asked_lm, asked_text) == ("v2", "new")
    assert revisions(store, asked_lm, replace(TEXT, revision="main")) == ("v2", "new")


def test_a_branch_that_is_asked_for_is_looked_up_once(tmp_path: Path, store: Path) -> None:
    text = replace(TEXT, revision="main")
    about = {"lm": {}, "text": {**asdict(text), "commit": "old main"}}
    StoreWriter.create(tmp_path / "main", {"embed": 8}, 8, StoreConfig(), about, 100)
    assert revisions(tmp_path / "main", text=text) == (None, "old main")
    assert revisions(tmp_path / "main") == (None, "new")


def test_a_started_store_keeps_the_dtype_that_was_fastest(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fastest = replace(LM, dtype=LMDtype.fastest)
    for is_fast, dtype in ((True, LMDtype.bfloat16), (False, LMDtype.float32)):
        monkeypatch.setattr("sae_dist.lm.load.multiplies_bfloat16_faster", lambda it=is_fast: it)
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        new = HarvestConfig(store=str(store.parent / "new"), sites=["embed"], lm=fastest, text=TEXT)
        assert pinned_sources(new)[0].dtype is dtype
        started = pinned_sources(replace(new, store=str(store)))[0]
        assert (started.dtype, started.revision) == (LMDtype.float32, "old lm")


def test_a_local_model_has_no_commit_to_load(store: Path) -> None:
    lm = LMConfig(name=str(store))
    assert revisions(store, lm) == (None, "old text")


def test_a_text_that_was_tokenised_may_be_gone(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(config: TextConfig) -> None:
        raise UserError("gone")

    monkeypatch.setattr(pinned, "documents", gone)
    with pytest.raises(UserError, match="gone"):
        revisions(store)
    writer = StoreWriter.open(store)
    writer.put_tokens(0, np.zeros((2, 8), np.int32), np.ones((2, 8), bool), None)
    writer.end_tokens(2, {})
    assert revisions(store) == ("old lm", "old text")


def asks(world: World) -> tuple[str, str]:
    def refuses() -> str:
        raise UserError(f"no text for rank {world.rank}")

    found = on_one(lambda: f"commit of rank {world.rank}")
    with pytest.raises(UserError) as caught:
        on_one(refuses)
    return found, str(caught.value)


def test_one_process_asks_and_all_get_its_answer_or_its_error() -> None:
    assert run_on(2, asks) == [("commit of rank 0", "no text for rank 0")] * 2
