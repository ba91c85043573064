"""What is known of latents, as files of other tools: one file a tool."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.handoff.circuit_tracer import unpack_features as unpack_features
    from sae_dist.handoff.handoff import Handoff as Handoff
    from sae_dist.handoff.picture import draw_graph as draw_graph
    from sae_dist.handoff.tools import handoff_named as handoff_named
    from sae_dist.handoff.tools import handoff_names as handoff_names

lazily(__name__)
