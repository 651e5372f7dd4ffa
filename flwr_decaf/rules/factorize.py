"""DeCAF averages the products and factorizes the mean at rank r (arXiv 2505.21382, Fig. 1).

    P = sum_j w_j B_j A_j,   P ~ U_r S_r V_r^T,   B~ = U_r S_r^(1/2),   A~ = S_r^(1/2) V_r^T

The factors B_j, A_j may have any rank; r is that of the node's own. (The scale of the product,
alpha / rank, is not part of a state: it must be the same at all nodes, see ``flwr_decaf.lora``.)

The symmetric split is that of the authors' code. Only factors are exchanged, and the matrix of
shape (d_out, d_in) is never formed: with ``left = [w_1 B_1, ..., w_m B_m]`` and
``right = [A_1; ...; A_m]``, the truncated SVD works on the two factors of ``P = left @ right``.

Deviation from the paper: a component whose singular value is zero would get a zero column in B~
*and* a zero row in A~, a saddle point at which both gradients vanish. At the start (B = 0), this
applies to the whole adapter. Such a component therefore keeps the corresponding row of the node's
own A along with its zero column of B~: the product is unchanged, and the component stays trainable.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from flwr_decaf.lora import Pair, State, check_products, compute_dtype, pairs
from flwr_decaf.rules.average import weighted_mean
from flwr_decaf.rules.contract import check_arguments
from flwr_decaf.rules.truncated_svd import truncated_svd


def factorize(states: Sequence[State], weights: Sequence[float]) -> State:
    """Average the products ``B @ A`` and return their best rank-r factors.

    Parameters
    ----------
    states : sequence of State
        The node's own state first; all have the same names, shapes and dtypes, except that their
        ranks may differ.
    weights : sequence of float
        The node's row of the mixing matrix, which sums to 1.

    Returns
    -------
    State
        Has the names, order, shapes and dtypes of the node's own state. Dense tensors are averaged.
        Half-precision factors are computed in fp32 and cast back.

    Raises
    ------
    ValueError
        If the states do not match, the weights do not sum to 1, there is no LoRA pair, or the
        adapter is one of DoRA.
    """
    check_arguments(states, weights, any_rank=True)
    own = states[0]
    adapted = pairs(own)
    check_products(own)
    if not adapted:
        raise ValueError(
            "DeCAF mixes the products of LoRA factors; the state has no lora_A, lora_B pair; "
            "use DLoRA (plain averaging) for whole models"
        )
    mixed: State = {}
    for layers in by_shape(states, adapted):
        mixed |= _factorize_layers(states, weights, layers)
    return {
        name: mixed[name] if name in mixed else weighted_mean([s[name] for s in states], weights)
        for name in own
    }


def by_shape(states: Sequence[State], adapted: list[Pair]) -> list[list[Pair]]:
    """Group pairs whose shapes and dtypes are the same, in each of the states."""
    # One batched call to torch.linalg handles all layers of a shape: 12 or 24 in a transformer.
    groups: dict[object, list[Pair]] = defaultdict(list)
    for a, b in adapted:
        shapes = tuple((state[a].shape, state[b].shape) for state in states)
        groups[shapes, states[0][a].dtype].append(Pair(a, b))
    return list(groups.values())


def _factorize_layers(
    states: Sequence[State], weights: Sequence[float], layers: list[Pair]
) -> State:
    own = states[0]
    precision = compute_dtype(own[layers[0].a].dtype)

    def stacked(state: State, name: int) -> Tensor:
        return torch.stack([state[pair[name]].flatten(1) for pair in layers]).to(precision)

    left = torch.cat([w * stacked(s, 1) for s, w in zip(states, weights, strict=True)], dim=-1)
    right = torch.cat([stacked(s, 0) for s in states], dim=-2)
    own_a = stacked(own, 0)
    svd = truncated_svd(left, right, rank=own_a.shape[-2])
    return _unstacked(own, layers, *balanced(*svd, own_a))


def balanced(u: Tensor, s: Tensor, vh: Tensor, own_a: Tensor) -> tuple[Tensor, Tensor]:
    """Split a truncated SVD evenly into A~ and B~.

    Components whose singular value is zero keep the rows of ``own_a``.
    """
    root = s.sqrt()
    a_mixed = torch.where(s.unsqueeze(-1) > 0, root.unsqueeze(-1) * vh, own_a)
    return a_mixed, u * root.unsqueeze(-2)


def _unstacked(own: State, layers: list[Pair], a_mixed: Tensor, b_mixed: Tensor) -> State:
    mixed: State = {}
    for pair, a, b in zip(layers, a_mixed, b_mixed, strict=True):
        mixed[pair.a] = a.reshape(own[pair.a].shape).to(own[pair.a].dtype)
        mixed[pair.b] = b.reshape(own[pair.b].shape).to(own[pair.b].dtype)
    return mixed
