"""Quadratically regularised maxima over the top-K simplices, over all classes but one."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_topk._checks import check_choice, check_float, check_indices, check_int, check_logits, readable
from lightning_topk.ops._largest import largest_others

SIMPLICES = ("alpha", "beta")


def topk_simplex_maximum(
    logits: Tensor,
    indices: Tensor,
    k: int,
    *,
    variant: str = "alpha",
    gamma: float = 1.0,
    margin: float = 0.0,
) -> Tensor:
    r"""Maximum of a linear function less a square over the top-K simplex, without one entry.

    .. math::
        \max_{x \in \Delta} \Bigl\{ \sum_{j \ne y} x_j h_j - \frac\gamma2 \sum_{j \ne y} x_j^2 \Bigr\}, \qquad
        h_j = m + s_j - s_y

    .. math::
        \Delta_\alpha = \{x \ge 0,\ t = \textstyle\sum_j x_j \le 1,\ x_j \le \tfrac tK\}, \qquad
        \Delta_\beta = \{0 \le x_j \le \tfrac1K,\ \textstyle\sum_j x_j \le 1\}

    for every index y that is asked for. The gradient is x on the other entries and -t on y: sparse, and Lipschitz.

    With :math:`p = \gamma x` the solution is :math:`p_j = \min(\max(h_j - \theta, 0), v - \theta)` for two thresholds,
    and with the piecewise linear :math:`\Phi(z) = \sum_{j \ne y} (h_j - z)_+` one of three cases holds:

    * the whole mass is used: :math:`v - \theta = \gamma / K` and :math:`\Phi(\theta) - \Phi(v) = \gamma`;
    * beta with mass to spare: :math:`\theta = 0` and :math:`v = \gamma / K`;
    * alpha with mass to spare: :math:`K \theta = -\Phi(v)` and :math:`\Phi(\theta) = 2 \Phi(v) + K v`.

    Each is one monotone equation. One sort and prefix sums give Phi anywhere, a binary search over the sorted entries
    gives the number of entries above each threshold, and given those the solution is a closed form that is
    differentiated as it stands, in float64. One index costs O(C): max(8 K, 64) selected entries give the exact value
    where the last of them is not above the lower threshold; the whole list, O(C log C), is taken where it is, and on
    other devices than the CPU. All indices of a row cost O(C log^2 C log K).

    Args:
        logits: Scores s, shape [..., C].
        indices: Entries y to leave out, int64, shape [..., L].
        k: Number K; in [1, C) for alpha, in [1, C] for beta.
        variant: ``"alpha"`` or ``"beta"``.
        gamma: Strength of the square, > 0.
        margin: Margin m, added to every other entry.

    Returns:
        Maxima, shape [..., L].

    Raises:
        TypeError: ``logits`` of an integer dtype, or a parameter of the wrong type.
        ValueError: A parameter out of its range.

    References:
        The sets: Lapin, Hein, Schiele, "Top-k multiclass SVM", NIPS 2015; "Loss functions for top-k error: Analysis
        and insights", CVPR 2016. The equations are derived here.

    Example:
        >>> scores = torch.tensor([4.0, -1.5, 2.5, 1.0], requires_grad=True)
        >>> value = topk_simplex_maximum(scores, torch.tensor([2]), k=2, margin=1.0)
        >>> value.sum().backward()
        >>> value, scores.grad
        (tensor([0.7500], grad_fn=<...>), tensor([ 0.5000,  0.0000, -1.0000,  0.5000]))
    """
    check_logits(logits)
    check_indices("indices", indices, logits)
    k = check_int("k", k, 1)
    check_choice("variant", variant, SIMPLICES)
    check_float("gamma", gamma, 0.0, low_open=True)
    check_float("margin", margin)
    num_classes = logits.shape[-1]
    if k > num_classes - (variant == "alpha"):
        allowed = "[1, C)" if variant == "alpha" else "[1, C]"
        raise ValueError(
            f'Parameter `k` should be in {allowed} for `variant = "{variant}"`. '
            f"Found `k = {k}` with `C = {num_classes}`."
        )
    count = max(8 * k, 64)
    if indices.shape[-1] == 1 and num_classes > 4 * count and logits.device.type == "cpu" and readable(logits):
        # Only the entries above the lower threshold count. Where not all candidates are above it, no other entry is.
        picked = logits.gather(-1, largest_others(logits, indices, count))
        value, above = _maximum(_Violations(picked, torch.full_like(indices, count), margin), k, variant, gamma)
        if bool((above < count).all()):
            return value.to(logits.dtype)
    return _maximum(_Violations(logits, indices, margin), k, variant, gamma)[0].to(logits.dtype)


def _maximum(lists: "_Violations", k: int, variant: str, gamma: float) -> tuple[Tensor, Tensor]:
    """The maxima [..., L] in float64, and how many of the other entries are above the lower threshold."""
    num_classes, width = lists.values.shape[-1], gamma / k
    with torch.no_grad():
        # All of the mass: one threshold, the other is `width` above. Its sets are those of the first closed form
        # again, as every threshold between two entries is a solution when the K largest take all the mass.
        upper = lists.first(lambda z: lists.excess(z - width) - lists.excess(z) < gamma, k, at_most=k - 1)
        lower = lists.first(lambda z: lists.excess(z) - lists.excess(z + width) < gamma, num_classes)
        theta = _theta_of_all(lists.moments(upper), lists.moments(lower), gamma, width)
        upper, lower = lists.above(theta + width), lists.above(theta)
        # With mass to spare.
        if variant == "beta":
            zero = torch.zeros_like(theta)
            spare = lists.excess(zero) - lists.excess(zero + width) <= gamma
            upper_spare, lower_spare = lists.above(zero + width), lists.above(zero)
        else:
            spare = k * theta + lists.excess(theta + width) < 0

            def gap(v: Tensor) -> Tensor:
                phi = lists.excess(v)
                return lists.excess(-phi / k) - 2 * phi - k * v

            upper_spare = lists.first(lambda z: gap(z) < 0, k, at_most=k - 1)
            u, s_u, _ = lists.moments(upper_spare)
            # Below the upper threshold Phi(v) is a line, and so is v as a function of theta.
            lower_spare = lists.first(
                lambda z: u * (lists.excess(z) + 2 * k * z) < k * (k * z + s_u), num_classes, least=upper_spare
            )
        upper, lower = torch.where(spare, upper_spare, upper), torch.where(spare, lower_spare, lower)
    capped, largest = lists.moments(upper), lists.moments(lower)
    u, s_u, _ = capped
    m, s_m, q_m = (b - a for a, b in zip(capped, largest, strict=True))
    theta, cap = _theta_of_all(capped, largest, gamma, width), torch.full_like(s_u, width)
    if variant == "beta":
        theta = torch.where(spare, 0.0, theta)
    else:
        theta_spare = (u * s_m - (k - u) * s_u) / ((k - u) ** 2 + u * m).clamp(min=1.0)
        theta = torch.where(spare, theta_spare, theta)
        cap = torch.where(spare, (s_m - m * theta_spare) / (k - u).clamp(min=1.0), cap)
    value = (cap * s_u - u * cap**2 / 2 + (q_m - m * theta**2) / 2) / gamma
    if variant == "alpha":
        value = torch.where(lists.sum_of_largest(k) > 0, value, 0.0)
    return value, lower - lists.holds_own(lower).long()


def _theta_of_all(capped: tuple[Tensor, ...], largest: tuple[Tensor, ...], gamma: float, width: float) -> Tensor:
    """Lower threshold where the whole mass gamma is used, u entries have `width` of it and m what they exceed it by."""
    (u, s_u, _), (n, s_n, _) = capped, largest
    return (s_n - s_u + u * width - gamma) / (n - u).clamp(min=1.0)


class _Violations:
    """For each index y the list of h_j = m + s_j - s_y of the other entries, held as one sorted list of scores.

    The n largest entries are counted with y, which is in the list by its own score; ties then never matter.
    """

    def __init__(self, logits: Tensor, indices: Tensor, margin: float) -> None:
        scores = logits.double()
        scores = scores - scores.detach().amax(-1, keepdim=True)
        self.own = scores.gather(-1, indices)
        self.lift = margin - self.own
        self.values = scores.sort(-1, descending=True).values
        self.ascending = -self.values.detach().contiguous()
        self.sums = pad(self.values.cumsum(-1), (1, 0))
        self.squares = pad((self.values * self.values).cumsum(-1), (1, 0))

    def holds_own(self, n: Tensor) -> Tensor:
        """Tell whether y is one of the n largest entries."""
        return (n > 0) & (self.own >= self.values.gather(-1, (n - 1).clamp(min=0)))

    def moments(self, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Number, sum and sum of squares of h over the others among the n largest entries."""
        own = torch.where(self.holds_own(n), self.own, 0.0)
        count = (n - self.holds_own(n).long()).to(own.dtype)
        total = self.sums.gather(-1, n) - own
        squares = self.squares.gather(-1, n) - own * own
        return count, total + count * self.lift, squares + 2 * self.lift * total + count * self.lift**2

    def above(self, z: Tensor) -> Tensor:
        """Number of entries with h > z, shape [..., L]."""
        return torch.searchsorted(self.ascending, (self.lift - z).contiguous())

    def excess(self, z: Tensor) -> Tensor:
        """Sum of (h - z)_+ over the others, shape [..., L]."""
        count, total, _ = self.moments(self.above(z))
        return total - count * z

    def sum_of_largest(self, k: int) -> Tensor:
        """Sum of the k largest h, shape [..., L]."""
        n = torch.full_like(self.lift, k, dtype=torch.long)
        return self.moments(n + self.holds_own(n).long())[1]

    def first(
        self,
        holds: Callable[[Tensor], Tensor],
        limit: int,
        *,
        least: Tensor | None = None,
        at_most: int | None = None,
    ) -> Tensor:
        """Number n of the largest entries for whose h a monotone condition holds, by binary search.

        Between ``least`` and ``limit``; with ``at_most``, no more than that many of them are others than y.
        """
        low = torch.zeros_like(self.lift, dtype=torch.long) if least is None else least
        high = torch.full_like(low, limit)
        for _ in range(limit.bit_length()):
            middle = (low + high) // 2
            inside = holds(self.values.gather(-1, middle.clamp(max=limit - 1)) + self.lift) & (low < high)
            low, high = torch.where(inside, middle + 1, low), torch.where(inside, high, middle)
        if at_most is not None:
            low = low - (low - self.holds_own(low).long() > at_most).long()
        return low
