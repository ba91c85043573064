"""Which corpus, and how it is cut."""

from dataclasses import dataclass

from sae_dist.common.settings import setting

STDLIB = "stdlib"


@dataclass(kw_only=True, slots=True)
class TextConfig:
    """A corpus and how it is cut into sequences.

    `path` is `stdlib` (the embedded corpus: the source of Python's standard library), a local file
    or folder of .txt (one document a file), .jsonl and .parquet (one a row), or else the name of a
    Hub data set; `subset`, `split` and `revision` speak of the Hub alone. A sequence has
    `sequence_length` positions; the first `exclude_prefix` of each are never trained on. `template`
    wraps each document, in place of its `{document}`, in a finetune's chat prefixes; what stands
    before the document is never trained on, nor measured.
    """

    path: str = STDLIB
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    column: str = "text"
    sequence_length: int = setting(1024, min=2, binary=True)
    exclude_prefix: int = setting(0, min=0)
    template: str | None = None
