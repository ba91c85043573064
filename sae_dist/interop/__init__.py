"""Files of other libraries and the Hub: coders written for them, and read from them."""

from sae_dist.interop.card import public, write_card
from sae_dist.interop.formats import FORMATS, FormatName, place, require_holds
from sae_dist.interop.hub import push, require_repo
from sae_dist.interop.load import load_coder, take_over

__all__ = [
    "FORMATS",
    "FormatName",
    "load_coder",
    "place",
    "public",
    "push",
    "require_holds",
    "require_repo",
    "take_over",
    "write_card",
]
