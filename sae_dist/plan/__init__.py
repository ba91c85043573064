"""What a harvest and a training will take, before anything is spent: arithmetic, nothing is run."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.plan.harvest import HarvestPlan as HarvestPlan
    from sae_dist.plan.harvest import Tokens as Tokens
    from sae_dist.plan.harvest import plan_harvest as plan_harvest
    from sae_dist.plan.memory import rung_memory as rung_memory
    from sae_dist.plan.table import Plan as Plan
    from sae_dist.plan.table import table as table
    from sae_dist.plan.table import to_dict as to_dict
    from sae_dist.plan.training import TrainingPlan as TrainingPlan
    from sae_dist.plan.training import plan_live as plan_live
    from sae_dist.plan.training import plan_training as plan_training

lazily(__name__)
