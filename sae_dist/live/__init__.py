"""Activations straight from a language model: a harvest that training reads as it goes on."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.live.passes import PASSING
    from sae_dist.live.rounds import Round, RoundSizes, choose_lanes, rounds
    from sae_dist.live.source import LiveActivations, check_live
    from sae_dist.live.stream import LiveStream, round_bytes
    from sae_dist.live.units import TextUnits, Unit

__all__ = [
    "PASSING",
    "LiveActivations",
    "LiveStream",
    "Round",
    "RoundSizes",
    "TextUnits",
    "Unit",
    "check_live",
    "choose_lanes",
    "round_bytes",
    "rounds",
]

lazily(__name__)
