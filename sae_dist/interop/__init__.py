"""Files of other libraries and the Hub: coders written for them, and read from them."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.interop.card import public, write_card
    from sae_dist.interop.format import Format
    from sae_dist.interop.formats import all_formats, format_named, format_names
    from sae_dist.interop.hub import push
    from sae_dist.interop.load import import_foreign, load_coder
    from sae_dist.interop.published import ForeignCoder, plain_tensors

__all__ = [
    "ForeignCoder",
    "Format",
    "all_formats",
    "format_named",
    "format_names",
    "import_foreign",
    "load_coder",
    "plain_tensors",
    "public",
    "push",
    "write_card",
]

lazily(__name__)
