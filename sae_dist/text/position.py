"""A place in a corpus, from which packing can go on."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Position:
    """Before token `token` of document `document`, both counted from 0."""

    document: int = 0
    token: int = 0


Piece = tuple[Position, np.ndarray]
"""Some tokens, and the position after the last of them."""
