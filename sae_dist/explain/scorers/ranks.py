"""How well numbers put what is active above what is not."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata


def auroc(
    values: Sequence[float] | np.ndarray, is_active: Sequence[bool] | np.ndarray
) -> float | None:
    """The share of pairs of an active and an idle one that stand in order; ties count half.

    Undefined without either. nan is left out.
    """
    known = ~np.isnan(values)
    ranks, active = rankdata(np.asarray(values)[known]), np.asarray(is_active)[known]
    num_active, num_idle = int(active.sum()), int((~active).sum())
    if not num_active or not num_idle:
        return None
    above = ranks[active].sum() - num_active * (num_active + 1) / 2  # Mann and Whitney's U
    return float(above / (num_active * num_idle))
