"""Which text, and how it becomes sequences."""

from dataclasses import dataclass
from enum import StrEnum

from sae_dist.common.settings import setting

STDLIB = "stdlib"
PUBLIC_DOMAIN = "public_domain"


class SpecialTokens(StrEnum):
    """What `<|endoftext|>`, written out in a text, is: the special token, or its characters."""

    parse = "parse"
    text = "text"


class Packing(StrEnum):
    """How documents become sequences.

    `joined`: one after another, cut wherever a sequence is full. `padded`: no sequence holds two
    documents; what a document leaves of its last one is filled up, and not trained on. `rows`: each
    row of token ids is a sequence already, and kept as it is. `auto`: `rows` where the first
    document is token ids, as many as a sequence has; else `joined`.
    """

    auto = "auto"
    joined = "joined"
    padded = "padded"
    rows = "rows"


@dataclass(kw_only=True, slots=True)
class TextConfig:
    """A corpus and how it is cut into sequences.

    `path` is `stdlib` (the embedded corpus: the source of Python's standard library),
    `public_domain` (English that a package index has), a local file or folder (`docs/text.md` has
    the formats), or else the name of a Hub data set; `subset` and `revision` speak of the Hub
    alone, `split` also of what `datasets` saved. `commit` is what the revision meant when a store
    or a run was started, found then and kept. `column` holds a document a row: a string, a
    conversation (`messages`), or token ids (`input_ids`).

    A sequence has `sequence_length` positions; the first `exclude_prefix` of each are never trained
    on. `template` wraps each document, in place of its `{document}`, in a finetune's chat prefixes;
    what stands before the document is never trained on, nor measured. `special_tokens` are read as
    most tokenizers do by default, since corpora for pretraining rely on it.
    """

    path: str = STDLIB
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    commit: str | None = None
    column: str = "text"
    sequence_length: int = setting(1024, min=2, binary=True)
    exclude_prefix: int = setting(0, min=0)
    template: str | None = None
    special_tokens: SpecialTokens = SpecialTokens.parse
    packing: Packing = Packing.auto
