"""A short training of finished coders on what the language model loses by them."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.finetune.config import FinetuningConfig as FinetuningConfig
    from sae_dist.finetune.run import Finetuning as Finetuning
    from sae_dist.finetune.tokens import TrainingTokens as TrainingTokens

lazily(__name__)
