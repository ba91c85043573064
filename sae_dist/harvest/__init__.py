"""Running a language model over a corpus and keeping what passes at its sites."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.harvest.config import HarvestLoopConfig as HarvestLoopConfig
    from sae_dist.harvest.harvest import batches_of as batches_of
    from sae_dist.harvest.harvest import fill_store as fill_store
    from sae_dist.harvest.processes import Processes as Processes
    from sae_dist.harvest.staging import StagingBuffer as StagingBuffer
    from sae_dist.harvest.team import join_launched_team as join_launched_team
    from sae_dist.harvest.team import join_slices as join_slices
    from sae_dist.harvest.team import join_team as join_team
    from sae_dist.harvest.tokens import Text as Text
    from sae_dist.harvest.tokens import Tokens as Tokens
    from sae_dist.harvest.tokens import UnitTokens as UnitTokens
    from sae_dist.harvest.units import Units as Units

lazily(__name__)
