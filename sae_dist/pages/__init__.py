"""Pages of what each latent fires on, that open from disk."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.pages.write import write as write
    from sae_dist.pages.write import write_index as write_index

lazily(__name__)
