"""The permutation under which two models' units correlate most."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

_TIE = 1e-6  # above rounding, below any correlation that means something


def assign(correlation: Tensor) -> Tensor:
    """Give each own unit one of the other model's, so that the correlations' sum is greatest.

    Parameters
    ----------
    correlation : Tensor
        Of shape (units, units): rows are own units, columns the other model's.

    Returns
    -------
    Tensor
        ``permutation[i]`` is the other model's unit for own unit i. Of equals, units in the same
        place go together; what is not a number counts as no correlation.

    Examples
    --------
    >>> assign(torch.tensor([[0.1, 0.9], [0.8, 0.9]])).tolist()
    [1, 0]
    """
    scores = np.nan_to_num(correlation.double().cpu().numpy())
    _, columns = linear_sum_assignment(scores + _TIE * np.eye(len(scores)), maximize=True)
    return torch.from_numpy(columns)
