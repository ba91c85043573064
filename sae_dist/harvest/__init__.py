"""Running a language model over a corpus and keeping what passes at its sites."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.harvest.config import HarvestLoopConfig
    from sae_dist.harvest.harvest import batches_of, fill_store
    from sae_dist.harvest.processes import Processes
    from sae_dist.harvest.staging import StagingBuffer
    from sae_dist.harvest.team import join_launched_team, join_slices, join_team
    from sae_dist.harvest.tokens import Text, Tokens, UnitTokens
    from sae_dist.harvest.units import Units

__all__ = [
    "HarvestLoopConfig",
    "StagingBuffer",
    "Processes",
    "Text",
    "Tokens",
    "UnitTokens",
    "Units",
    "batches_of",
    "fill_store",
    "join_launched_team",
    "join_slices",
    "join_team",
]

lazily(__name__)
