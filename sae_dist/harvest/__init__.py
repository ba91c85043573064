"""Running a language model over a corpus and keeping what passes at its sites."""

from sae_dist.harvest.assign import Round, rounds
from sae_dist.harvest.harvest import HarvestLoopConfig, Processes, harvest
from sae_dist.harvest.team import Team, join_launched_team, join_slices, join_team

__all__ = [
    "HarvestLoopConfig",
    "Processes",
    "Round",
    "Team",
    "harvest",
    "join_launched_team",
    "join_slices",
    "join_team",
    "rounds",
]
