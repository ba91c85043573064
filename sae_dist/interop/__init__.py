"""Files of other libraries and the Hub: coders written for them, and read from them."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.interop.card import public as public
    from sae_dist.interop.card import write_card as write_card
    from sae_dist.interop.config import FormatName as FormatName
    from sae_dist.interop.formats import FORMATS as FORMATS
    from sae_dist.interop.formats import place as place
    from sae_dist.interop.formats import require_holds as require_holds
    from sae_dist.interop.hub import push as push
    from sae_dist.interop.load import import_foreign as import_foreign
    from sae_dist.interop.load import load_coder as load_coder

lazily(__name__)
