"""The permutation that maximizes the correlation between the units of two models."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

try:
    from scipy.optimize import linear_sum_assignment
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "matching of hidden units (DIMAT) needs the package scipy; it is not installed; run pip "
        "install 'flwr-decaf[dimat]'",
        name="scipy",
    ) from error

_TIE = 1e-6  # above the rounding error, below any meaningful correlation


def assign(correlation: Tensor) -> Tensor:
    """Assign a unit of the other model to each own unit, maximizing the sum of correlations.

    Parameters
    ----------
    correlation : Tensor
        Of shape (units, units): rows are own units, columns those of the other model.

    Returns
    -------
    Tensor
        ``permutation[i]`` is the other model's unit for own unit i. Ties are broken in favour of
        the unit with the same index; NaN counts as 0.

    Examples
    --------
    >>> assign(torch.tensor([[0.1, 0.9], [0.8, 0.9]])).tolist()
    [1, 0]
    """
    scores = np.nan_to_num(correlation.double().cpu().numpy())
    _, columns = linear_sum_assignment(scores + _TIE * np.eye(len(scores)), maximize=True)
    return torch.from_numpy(columns)
