"""What latents fire on, in words, and how far a judge can foresee it from them."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.explain.asking import explain as explain
    from sae_dist.explain.asking import foresee as foresee
    from sae_dist.explain.config import BudgetConfig as BudgetConfig
    from sae_dist.explain.config import ExamplesConfig as ExamplesConfig
    from sae_dist.explain.config import ExplanationConfig as ExplanationConfig
    from sae_dist.explain.examples import Examples as Examples
    from sae_dist.explain.examples import Sample as Sample
    from sae_dist.explain.examples import Window as Window
    from sae_dist.explain.figures import summarise as summarise
    from sae_dist.explain.judges import JUDGES as JUDGES
    from sae_dist.explain.judges import Judge as Judge
    from sae_dist.explain.judges import JudgeConfig as JudgeConfig
    from sae_dist.explain.planted import Planted as Planted
    from sae_dist.explain.questions import Question as Question
    from sae_dist.explain.questions import Usage as Usage
    from sae_dist.explain.scorers import SCORERS as SCORERS
    from sae_dist.explain.scorers import Scorer as Scorer
    from sae_dist.explain.texts import read_texts as read_texts
    from sae_dist.explain.work import Work as Work

lazily(__name__)
