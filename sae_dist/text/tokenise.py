"""Documents as token ids."""

from collections.abc import Iterable, Iterator
from datetime import datetime

import jinja2
import numpy as np
from transformers import PreTrainedTokenizerBase

from sae_dist.common.errors import UserError
from sae_dist.text.config import SpecialTokens, TextConfig
from sae_dist.text.document import Document, Message, num_characters

_BATCH_DOCUMENTS = 1024
_BATCH_CHARACTERS = 1 << 22
_TODAY = datetime(2024, 7, 26)  # some templates write the date: that of Llama 3's without a clock
_DATES = {code: _TODAY.strftime(code) for code in "%Y %y %m %d %b %B %a %A %H %M %S %j".split()}
_CLOCK = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f"|replace('{code}', '{value}')" for code, value in _DATES.items())
    + " }}{%- endmacro -%}"
)


def tokenise(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase, config: TextConfig
) -> Iterator[tuple[Document, np.ndarray]]:
    """Each document with its ids, int32, without the special tokens that a tokenizer adds.

    Conversations go through the tokenizer's own chat template. Raises UserError for a tokenizer
    without one, for a conversation that it refuses, and where the configuration asks for what
    messages or ids cannot have.
    """
    for batch in _batches(documents):
        texts = [_text(document, tokenizer, config) for document in batch]
        strings = [text for text in texts if text is not None]
        ids_of_strings = iter(
            tokenizer(
                strings,
                add_special_tokens=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                split_special_tokens=config.special_tokens == SpecialTokens.text,
                verbose=False,
            )["input_ids"]
            if strings
            else []
        )
        for document, text in zip(batch, texts, strict=True):
            ids = document if text is None else next(ids_of_strings)
            yield document, np.asarray(ids, dtype=np.int32)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    num = 0
    for document in documents:
        batch.append(document)
        num += num_characters(document)
        if len(batch) == _BATCH_DOCUMENTS or num >= _BATCH_CHARACTERS:
            yield batch
            batch, num = [], 0
    if batch:
        yield batch


def _text(document: Document, tokenizer: PreTrainedTokenizerBase, config: TextConfig) -> str | None:
    """What is tokenised of a document; None of one that is token ids already."""
    if isinstance(document, str):
        return document
    if isinstance(document, np.ndarray):
        return None
    if config.template is not None or config.special_tokens == SpecialTokens.text:
        key = "template" if config.template is not None else "special_tokens=text"
        raise UserError(
            f"found text.{key} on messages in {config.path}; expected none, as the tokenizer's "
            "own template says how they are written; leave it out"
        )
    return _rendered(document, tokenizer, config)


def _rendered(
    messages: list[Message], tokenizer: PreTrainedTokenizerBase, config: TextConfig
) -> str:
    if tokenizer.chat_template is None:
        raise UserError(
            f"found messages in column `{config.column}` of {config.path} and a tokenizer without "
            "a chat template; expected the tokenizer of a chat model; set lm.name, or text.column "
            "to a column of strings"
        )
    try:
        text = tokenizer.apply_chat_template(
            messages,
            chat_template=_CLOCK + tokenizer.get_chat_template(),
            tokenize=False,
            date_string=_TODAY.strftime("%d %b %Y"),
        )
    except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
        roles = [message["role"] for message in messages]
        raise UserError(
            f"found messages of {roles} in {config.path} that the tokenizer's chat template "
            f"refuses ({' '.join(str(error).split())}); expected what it can write; mend them or "
            "leave them out"
        ) from error
    return str(text)
