"""Randomness as a pure function of a seed and of what it is for."""

from hashlib import blake2b

import numpy as np


def derive(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed for one purpose, equal everywhere: `derive(seed, "bucket", epoch, lane)`."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *purpose: int | str) -> np.random.Generator:
    """A numpy generator (Philox: specified, so equal across numpy versions) for one purpose."""
    return np.random.Generator(np.random.Philox(derive(seed, *purpose)))
