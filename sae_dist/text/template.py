"""Documents wrapped in a finetune's chat prefixes."""

import re
from dataclasses import dataclass
from typing import Self

import numpy as np
from transformers import PreTrainedTokenizerBase

from sae_dist.common.errors import UserError
from sae_dist.common.log import warn

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
    def of(cls, text: str | None, tokenizer: PreTrainedTokenizerBase) -> Self:
        """The template of a text with one `{document}`; both parts are tokenised by themselves, so
        that no token reaches over an end of the document. None has no token on either side.

        Warns of what looks like a special token and is none to this tokenizer. Raises UserError for
        another number of documents, and where BOS is written out.
        """
        if text is None:
            return cls(np.zeros(0, np.int32), np.zeros(0, np.int32))
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

    def __len__(self) -> int:
        return len(self.before_P) + len(self.after_P)


def _warn_of_strangers(text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    known = tokenizer.get_vocab()
    strangers = [name for name in _LIKE_A_SPECIAL_TOKEN.findall(text) if name not in known]
    if strangers:
        warn(
            f"the tokenizer has no token {', '.join(dict.fromkeys(strangers))} and spells it out; "
            "if the template is another model's, choose this one's"
        )


def special_ids(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """All ids that the tokenizer calls special, int32, sorted.

    Besides the named ones (BOS, EOS, …) those that were added as special: `<|eot_id|>`, say.
    """
    added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return np.asarray(sorted(added | set(tokenizer.all_special_ids)), dtype=np.int32)
