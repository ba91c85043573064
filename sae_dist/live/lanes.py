"""How many lanes share the batches of a text: arithmetic."""

from sae_dist.stream import StreamConfig

_MAX_LANES = 64


def choose_lanes(config: StreamConfig, num_units: int, unit_tokens: int, batch_tokens: int) -> int:
    """Those that `config` asks for, else what suits `num_units` units and a batch.

    That is the largest number up to 64 that shares a batch, and of which each lane gets equally
    many units, but for a tenth of all, and enough for its share of a batch.
    """
    if config.lanes is not None:
        return config.lanes

    def suits(lanes: int) -> bool:
        units = num_units // lanes  # of a lane; some of their tokens are not trained on
        is_shared = batch_tokens % lanes == 0 and units * lanes >= 0.9 * num_units
        return is_shared and units * unit_tokens // 2 >= batch_tokens // lanes

    return next((n for n in range(min(_MAX_LANES, num_units), 1, -1) if suits(n)), 1)
