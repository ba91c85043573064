"""Files of other libraries and the Hub: coders written for them, and read from them."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.interop.card import public as public
    from sae_dist.interop.card import write_card as write_card
    from sae_dist.interop.format import Format as Format
    from sae_dist.interop.formats import all_formats as all_formats
    from sae_dist.interop.formats import format_named as format_named
    from sae_dist.interop.formats import format_names as format_names
    from sae_dist.interop.hub import push as push
    from sae_dist.interop.load import import_foreign as import_foreign
    from sae_dist.interop.load import load_coder as load_coder
    from sae_dist.interop.load import load_described as load_described
    from sae_dist.interop.published import ForeignCoder as ForeignCoder
    from sae_dist.interop.published import plain_tensors as plain_tensors
    from sae_dist.interop.suites import coders_in as coders_in
    from sae_dist.interop.suites import starts as starts
    from sae_dist.interop.suites import suite_names as suite_names

lazily(__name__)
