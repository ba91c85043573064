"""Training a ladder of coders on one stream of activations."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.common.errors import Preempted as Preempted
    from sae_dist.train.config import LoopConfig as LoopConfig
    from sae_dist.train.config import Resume as Resume
    from sae_dist.train.config import RungConfig as RungConfig
    from sae_dist.train.config import WatchConfig as WatchConfig
    from sae_dist.train.fingerprint import check_alike as check_alike
    from sae_dist.train.loop import Evaluate as Evaluate
    from sae_dist.train.loop import TrainingRun as TrainingRun
    from sae_dist.train.optimizers import Adam as Adam
    from sae_dist.train.optimizers import Muon as Muon
    from sae_dist.train.optimizers import OptimConfig as OptimConfig
    from sae_dist.train.optimizers import Signum as Signum
    from sae_dist.train.progress import NonFiniteError as NonFiniteError
    from sae_dist.train.rows import SharedRows as SharedRows
    from sae_dist.train.rung import Rung as Rung
    from sae_dist.train.signals import ending_signals as ending_signals
    from sae_dist.train.step import training_step as training_step
    from sae_dist.train.watch import Watch as Watch

lazily(__name__)
