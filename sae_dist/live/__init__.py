"""Activations straight from a language model: a harvest that training reads as it goes on."""

from sae_dist.live.rounds import Round, rounds
from sae_dist.live.source import LiveActivations
from sae_dist.live.stream import LiveStream
from sae_dist.live.units import TextUnits, Unit

__all__ = ["LiveActivations", "LiveStream", "Round", "TextUnits", "Unit", "rounds"]
