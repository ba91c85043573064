"""How coders of a base language model fare on its finetune (Lieberum et al. 2024, 4.5, C.4)."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.evaluate.transfer.config import TransferConfig
    from sae_dist.evaluate.transfer.conversations import Prompt
    from sae_dist.evaluate.transfer.subjects import Trained
    from sae_dist.evaluate.transfer.transfer import transfer

__all__ = ["Prompt", "Trained", "TransferConfig", "transfer"]

lazily(__name__)
