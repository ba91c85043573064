"""Running a language model over a corpus and keeping what passes at its sites."""

from sae_dist.harvest.assign import Round, rounds
from sae_dist.harvest.harvest import HarvestLoopConfig, Processes, harvest

__all__ = ["HarvestLoopConfig", "Processes", "Round", "harvest", "rounds"]
