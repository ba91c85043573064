"""How a store is read."""

from dataclasses import dataclass

from sae_dist.common.errors import UserError


@dataclass(kw_only=True, slots=True)
class StreamConfig:
    """How to read a store; `lanes` and `bucket_tokens` (of all lanes together) fix the order."""

    lanes: int = 64
    bucket_tokens: int = 2**20
    read_threads: int = 4
    batches_ahead: int = 4

    def check(self) -> None:
        """Raise UserError for settings that cannot work."""
        for name in ("lanes", "bucket_tokens", "read_threads", "batches_ahead"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"found stream.{name}={getattr(self, name)}; expected at least 1; change it"
                )
