"""Coders attached to a language model in code: a text's latents, steering, ablation, gradients."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.attach.attached import Attached as Attached
    from sae_dist.attach.attached import RunOutput as RunOutput
    from sae_dist.attach.attached import attach as attach
    from sae_dist.attach.edit import Edit as Edit
    from sae_dist.attach.latents import Latents as Latents

lazily(__name__)
