"""Judges: one file each, with its settings and how it answers."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.explain.judges.judge import JUDGES as JUDGES
    from sae_dist.explain.judges.judge import Judge as Judge
    from sae_dist.explain.judges.judge import JudgeConfig as JudgeConfig

lazily(__name__)
