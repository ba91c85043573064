"""How activations are mixed and read."""

from dataclasses import dataclass

from sae_dist.common.errors import UserError


@dataclass(kw_only=True, slots=True)
class StreamConfig:
    """How activations are mixed and read; `bucket_tokens` (of all ranks together) fixes the order.

    So many tokens are mixed with each other, and of a store 64 batches at least. `lanes` are those
    of `store=live` (`live/lanes.py`), which the ranks must divide.
    """

    lanes: int | None = None
    bucket_tokens: int = 2**20
    read_threads: int = 4
    batches_ahead: int = 4

    def check(self) -> None:
        """Raise UserError for settings that cannot work."""
        for name in ("lanes", "bucket_tokens", "read_threads", "batches_ahead"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"found stream.{name}={value}; expected at least 1; change it")
