"""Activations straight from a language model: a harvest that training reads as it goes on."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.live.fresh import FreshText as FreshText
    from sae_dist.live.passes import PASSING as PASSING
    from sae_dist.live.rounds import Round as Round
    from sae_dist.live.rounds import RoundSizes as RoundSizes
    from sae_dist.live.rounds import choose_lanes as choose_lanes
    from sae_dist.live.rounds import rounds as rounds
    from sae_dist.live.source import LiveActivations as LiveActivations
    from sae_dist.live.source import check_live as check_live
    from sae_dist.live.stream import LiveStream as LiveStream
    from sae_dist.live.stream import round_bytes as round_bytes
    from sae_dist.live.units import TextUnits as TextUnits
    from sae_dist.live.units import Unit as Unit

lazily(__name__)
