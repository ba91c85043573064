"""Corpora and prompts, and their tokens packed into full sequences."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.text.config import STDLIB as STDLIB
    from sae_dist.text.config import Packing as Packing
    from sae_dist.text.config import SpecialTokens as SpecialTokens
    from sae_dist.text.config import TextConfig as TextConfig
    from sae_dist.text.corpus import documents as documents
    from sae_dist.text.corpus import pin as pin
    from sae_dist.text.corpus import stdlib_modules as stdlib_modules
    from sae_dist.text.corpus import texts as texts
    from sae_dist.text.document import Document as Document
    from sae_dist.text.fingerprint import Fingerprint as Fingerprint
    from sae_dist.text.pack import Block as Block
    from sae_dist.text.pack import Position as Position
    from sae_dist.text.pack import look as look
    from sae_dist.text.pack import pack as pack
    from sae_dist.text.prompts import read_prompts as read_prompts
    from sae_dist.text.prompts import wrap_prompts as wrap_prompts
    from sae_dist.text.template import Template as Template
    from sae_dist.text.template import special_ids as special_ids
    from sae_dist.text.vocabulary import vocabulary as vocabulary

lazily(__name__)
