"""What is asked of a transfer to a finetune."""

from dataclasses import dataclass

from sae_dist.common.names import require_plain
from sae_dist.common.settings import setting


@dataclass(kw_only=True, slots=True)
class TransferConfig:
    """Coders of a run on rollouts of a finetune of its language model; none without `lm_name`.

    `lm_name` (at `lm_revision`) is the finetune, held as the run's model was, with its own code
    only if `lm_trust_remote_code`. `prompts` is a file: .jsonl with a `prompt` or `text`, or lines.
    Each is cut at `prompt_tokens`, wrapped in `template` (by default that of the finetuned run's
    store) and continued by up to `rollout_tokens`, drawn at `temperature`; `sequences` of them,
    `batch_sequences` at once, prompts in an order that `seed` fixes, again and again if they are
    fewer. The coders of `finetuned_run` are measured beside; `finetuned_store` says where its store
    is now, if elsewhere.
    """

    lm_name: str | None = None
    lm_revision: str | None = None
    lm_trust_remote_code: bool = False
    prompts: str | None = None
    template: str | None = None
    finetuned_run: str | None = setting(None, check=require_plain)
    finetuned_store: str | None = None
    sequences: int = setting(1024, min=1)
    prompt_tokens: int = setting(512, min=1)
    rollout_tokens: int = setting(256, min=1)
    temperature: float = setting(1.0, above=0)
    batch_sequences: int = setting(16, min=1)
    seed: int = setting(0, min=0)
