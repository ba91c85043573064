"""Files of other libraries and the Hub: coders written for them, and read from them."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.interop.card import public, write_card
    from sae_dist.interop.config import FormatName
    from sae_dist.interop.formats import FORMATS, place, require_holds
    from sae_dist.interop.hub import push
    from sae_dist.interop.load import import_foreign, load_coder

__all__ = [
    "FORMATS",
    "FormatName",
    "load_coder",
    "place",
    "public",
    "push",
    "require_holds",
    "import_foreign",
    "write_card",
]

lazily(__name__)
