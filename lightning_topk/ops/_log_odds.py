"""Log-odds of classes under a softmax, without cancellation."""

import torch
from torch import Tensor


def log_odds(scores: Tensor, labels: Tensor) -> Tensor:
    r"""Log-odds of one label or of all, :math:`\log \frac{p_c}{1 - p_c} = s_c - \log \sum_{j \ne c} e^{s_j}`.

    With o the log-odds, cross-entropy is :math:`-\log \sigma(o)`, and the probability of the class and of all others
    are :math:`\sigma(o)` and :math:`\sigma(-o)`. All keep their relative accuracy for labels that are nearly certain,
    where :math:`1 - p_c` itself has none, and for large scores.

    It takes time O(C) a row in both cases. For all labels at once,
    :math:`\log \sum_{j \ne c} e^{s_j} = \log \sum_j e^{s_j} + \log(1 - p_c)` is used where :math:`p_c \le 1/2`; only
    the best class can have more, and its sum is taken directly.

    Args:
        scores: Scores s, shape [N, C], float32 or float64.
        labels: Classes c, shape [N, 1]; or [N, C] with the row 0, 1, ..., C - 1 in each.

    Returns:
        Log-odds, shape of ``labels``; a large number, and flat, when there is no other class.

    Example:
        >>> log_odds(torch.tensor([[1.0, 1.0, 2.0]]).log(), torch.tensor([[0, 1, 2]])).exp()
        tensor([[0.3333, 0.3333, 1.0000]])
    """
    # Relative to the best, as the difference of large scores is exact and that of their log-sum-exps is not.
    scores = scores - scores.detach().amax(-1, keepdim=True)
    # Finite, so that its gradient is 0 and not NaN.
    nothing = torch.finfo(scores.dtype).min
    single = labels.shape[-1] == 1
    left_out = labels if single else scores.argmax(-1, keepdim=True)
    others = torch.logsumexp(scores.scatter(-1, left_out, nothing), -1, keepdim=True)
    if not single:
        total = torch.logsumexp(scores, -1, keepdim=True)
        share = (scores - total).exp().scatter(-1, left_out, 0.0)
        others = (total + torch.log1p(-share)).scatter(-1, left_out, others)
    return (scores.gather(-1, labels) if single else scores) - others
