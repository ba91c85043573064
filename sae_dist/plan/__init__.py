"""What a harvest and a training will take, before anything is spent: arithmetic, nothing is run."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.plan.harvest import HarvestPlan, Tokens, plan_harvest
    from sae_dist.plan.machine import MachineConfig
    from sae_dist.plan.memory import rung_memory
    from sae_dist.plan.table import Plan, table, to_dict
    from sae_dist.plan.training import TrainingPlan, plan_live, plan_training

__all__ = [
    "HarvestPlan",
    "MachineConfig",
    "Plan",
    "Tokens",
    "TrainingPlan",
    "plan_harvest",
    "plan_live",
    "plan_training",
    "rung_memory",
    "table",
    "to_dict",
]

lazily(__name__)
