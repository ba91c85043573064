"""What each latent of a run's coders fires on."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.latents.config import WatchConfig as WatchConfig
    from sae_dist.latents.explanations import Explanation as Explanation
    from sae_dist.latents.explanations import read_explanations as read_explanations
    from sae_dist.latents.explanations import write_explanation as write_explanation
    from sae_dist.latents.folder import About as About
    from sae_dist.latents.folder import Example as Example
    from sae_dist.latents.folder import Latents as Latents
    from sae_dist.latents.folder import RungAbout as RungAbout
    from sae_dist.latents.folder import rungs_with_latents as rungs_with_latents
    from sae_dist.latents.watcher import Unembed as Unembed
    from sae_dist.latents.watcher import watch as watch

lazily(__name__)
