"""Running a language model over a corpus and keeping what passes at its sites."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.harvest.assign import Round, by_turns, round_of
    from sae_dist.harvest.config import HarvestLoopConfig
    from sae_dist.harvest.harvest import harvest
    from sae_dist.harvest.host import HostShard
    from sae_dist.harvest.locks import Locks, Owner
    from sae_dist.harvest.processes import Processes
    from sae_dist.harvest.team import Team, join_launched_team, join_slices, join_team

__all__ = [
    "HarvestLoopConfig",
    "HostShard",
    "Locks",
    "Owner",
    "Processes",
    "Round",
    "Team",
    "by_turns",
    "harvest",
    "join_launched_team",
    "join_slices",
    "join_team",
    "round_of",
]

lazily(__name__)
