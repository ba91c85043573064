"""Which commits of the Hub a harvest reads: those that its store was started with."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from sae_dist.checkpoint.ranks import on_first_rank
from sae_dist.config import HarvestConfig
from sae_dist.lm import LMConfig, LMDtype, decided_dtype, load_tokenizer
from sae_dist.store import StoreWriter, read_settings
from sae_dist.text import TextConfig, documents, look, pin

_Value = TypeVar("_Value")


def pinned_sources(config: HarvestConfig) -> tuple[LMConfig, TextConfig]:
    """The language model and the text as they are to be read, after a look at the text.

    What the Hub has under a name may change while a store is being filled. The commits of the store
    are taken, where it was started with the same settings; else a text's is what its revision means
    today. One process asks, and all that were started with it do alike. Raises
    UserError on all of them where text that is still to be read is not there, or is none for this
    language model.
    """
    return on_one(lambda: _pinned(config))


def on_one(work: Callable[[], _Value]) -> _Value:
    """What `work` gives, or the UserError that it raises, on one process, on all of a world."""
    is_alone = not dist.is_initialized() or dist.get_world_size() == 1
    return work() if is_alone else on_first_rank(None, work)


def _pinned(config: HarvestConfig) -> tuple[LMConfig, TextConfig]:
    settings = read_settings(config.store)
    started = {} if settings is None else settings.provenance
    lm, text = _with_dtype(config.lm, started.get("lm", {})), config.text
    if commit := _commit(asdict(lm), started.get("lm", {})):
        lm = lm if Path(lm.name).expanduser().exists() else replace(lm, revision=commit)
    text = pinned_text(text, started.get("text", {}))
    if settings is None or not _is_read(config.store):  # else the text may be gone
        look(documents(text), load_tokenizer(lm), text)
    return lm, text


def _with_dtype(lm: LMConfig, started: dict[str, Any]) -> LMConfig:
    """`fastest` is what it was for a store that was started, or else what it is here."""
    if lm.dtype is LMDtype.fastest and "dtype" in started:
        return replace(lm, dtype=LMDtype(started["dtype"]))
    return replace(lm, dtype=decided_dtype(lm.dtype))


def pinned_text(text: TextConfig, started: dict[str, Any]) -> TextConfig:
    """The text at the commit of one that was `started` alike, or else at what it means today."""
    return pin(replace(text, commit=text.commit or _commit(asdict(text), started)))


def _is_read(store: str) -> bool:
    """Whether a started store has all its tokens."""
    writer = StoreWriter.open(store)
    return writer.sealed or writer.num_units == writer.tokens_written()[0]


def _commit(asked: dict[str, Any], started: dict[str, Any]) -> str | None:
    """The commit of what was started, if nothing else differs."""
    return (
        started.get("commit") if {**started, "commit": None} == {**asked, "commit": None} else None
    )
