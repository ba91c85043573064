"""Documents wrapped in a finetune's chat prefixes."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from transformers import PreTrainedTokenizerBase

from sae_dist.common.errors import UserError
from sae_dist.common.log import warn
from sae_dist.text.position import Piece, Position

DOCUMENT = "{document}"
_LIKE_A_SPECIAL_TOKEN = re.compile(r"<\|?\w+\|?>")


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """The tokens before a document (the user's prefix) and after it (the model's), both int32.

    The first are never trained on, nor measured: they are the same for every document, and much
    larger than others (Lieberum et al. 2024, section 4.5).
    """

    before_P: np.ndarray
    after_P: np.ndarray

    @classmethod
    def of(cls, text: str, tokenizer: PreTrainedTokenizerBase) -> Self:
        """The template of a text with one `{document}`; both parts are tokenised by themselves, so
        that no token reaches over an end of the document.

        Warns of what looks like a special token and is none to this tokenizer. Raises UserError for
        another number of documents, and where BOS is written out.
        """
        if text.count(DOCUMENT) != 1:
            raise UserError(
                f"found {text.count(DOCUMENT)} times {DOCUMENT} in template {text!r}; expected it "
                "once, between the user's prefix and the model's; correct the template"
            )
        _warn_of_strangers(text, tokenizer)
        parts = tokenizer(text.split(DOCUMENT), add_special_tokens=False)["input_ids"]
        before_P, after_P = (np.asarray(ids, dtype=np.int32) for ids in parts)
        bos = tokenizer.bos_token_id
        if bos is not None and before_P[:1].tolist() == [bos]:
            raise UserError(
                f"found that template {text!r} begins with {tokenizer.bos_token}; expected the "
                "user's prefix, as every sequence gets that token anyway; leave it out"
            )
        return cls(before_P, after_P)

    @classmethod
    def none(cls) -> Self:
        """Nothing before a document and nothing after it."""
        return cls(np.zeros(0, np.int32), np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.before_P) + len(self.after_P)

    def rows(
        self,
        documents: Iterable[Piece],
        length: int,
        separator: np.ndarray,
        *,
        shares: bool,
    ) -> Iterator[Piece]:
        """Sequences [length] of wrapped documents; what is not to be trained on is negative: ~id.

        With `shares` a sequence is filled with wrapped documents, a separator between two;
        otherwise it holds one. A document that does not fit is cut there, and what is left of it is
        wrapped again and begins the next sequence: both prefixes are whole wherever they are. Where
        no token of a document goes, separators fill the sequence up. An incomplete last sequence
        of several documents is dropped.
        """
        row: list[np.ndarray] = []
        room = length
        for end, ids in documents:
            start = 0
            while start < len(ids):
                part = ids[start : start + room - len(self)]
                start += len(part)
                row += [~self.before_P, part, self.after_P]
                room -= len(self) + len(part)
                if shares and room > len(separator) + len(self):
                    row.append(separator)
                    room -= len(separator)
                else:
                    at = Position(end.document, end.token - len(ids) + start)
                    yield at, np.concatenate([*row, _filling(separator, room)])
                    row, room = [], length


def _warn_of_strangers(text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    known = tokenizer.get_vocab()
    strangers = [name for name in _LIKE_A_SPECIAL_TOKEN.findall(text) if name not in known]
    if strangers:
        warn(
            f"the tokenizer has no token {', '.join(dict.fromkeys(strangers))} and spells it out; "
            "if the template is another model's, choose this one's"
        )


def _filling(separator: np.ndarray, num: int) -> np.ndarray:
    """No token sees what comes after it: any would do."""
    return ~np.resize(separator if len(separator) else np.zeros(1, np.int32), num)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """All ids that the tokenizer calls special, int32, sorted.

    Besides the named ones (BOS, EOS, …) those that were added as special: `<|eot_id|>`, say.
    """
    added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return np.asarray(sorted(added | set(tokenizer.all_special_ids)), dtype=np.int32)
