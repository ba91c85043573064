"""How a store is read."""

from dataclasses import dataclass

from sae_dist.common.errors import UserError


@dataclass(kw_only=True, slots=True)
class StreamConfig:
    """How to read a store; `lanes` and `bucket_tokens` (of all lanes together) fix the order.

    Without `lanes` there are as many as suit chunks and batch (`order.fitting_lanes`), whatever
    the number of ranks.
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
