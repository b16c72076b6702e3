"""What follows from class counts: margins, weights, priors and groups."""

from typing import Any

import torch
from torch import Tensor

from lightning_topk._checks import check_float, check_int, check_logits
from lightning_topk.imbalance._counts import check_counts, nonzero_counts


def ldam_margins(counts: Any, *, max_margin: float = 0.5, constant: float | None = None, zero: str = "error") -> Tensor:
    r"""Class margins that grow as classes get rarer.

    .. math:: m_c = C / n_c^{1/4}, \qquad C = \text{max\_margin} \cdot \min_c n_c^{1/4}

    so that the rarest class has the margin ``max_margin``, unless C is given as ``constant``.

    Args:
        counts: Class counts n, shape [C].
        max_margin: The largest margin, >= 0, in units of the logits. Cao et al. use 0.5, Garcin et al. 0.2.
        constant: The constant C >= 0 itself; ``max_margin`` is not used then.
        zero: Rule for classes without samples, see :func:`nonzero_counts`.

    Returns:
        Margins, float32, shape [C].

    Raises:
        ValueError: Counts or a margin out of range, or a class without samples under ``zero="error"``.

    References:
        Cao, Wei, Gaidon, Arechiga, Ma, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        NeurIPS 2019.

    Example:
        >>> ldam_margins([1, 16, 81, 256], max_margin=0.5)
        tensor([0.5000, 0.2500, 0.1667, 0.1250])
    """
    check_float("max_margin", max_margin, 0.0)
    inverse = nonzero_counts(counts, zero).double() ** -0.25
    factor = max_margin / inverse.max() if constant is None else check_float("constant", constant, 0.0)
    return (factor * inverse).float()


def class_balanced_weights(counts: Any, beta: float = 0.9999, *, zero: str = "error") -> Tensor:
    r"""Class weights by the effective number of samples.

    .. math:: w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}, \qquad \sum_c w_c = C

    The effective number :math:`(1 - \beta^{n}) / (1 - \beta)` lies between 1 and n: it is 1 for every class at
    :math:`\beta = 0`, where all weights are 1, and n at :math:`\beta = 1`, the limit of inverse frequency.

    Args:
        counts: Class counts n, shape [C].
        beta: In [0, 1]. Cui et al. use 0.9 to 0.9999, the code of Cao et al. 0.9999.
        zero: Rule for classes without samples, see :func:`nonzero_counts`.

    Returns:
        Weights of mean 1, float32, shape [C].

    Raises:
        ValueError: Counts or beta out of range, or a class without samples under ``zero="error"``.

    References:
        Cui, Jia, Lin, Song, Belongie, "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.

    Example:
        >>> class_balanced_weights([1, 2, 3], beta=0.5)
        tensor([1.3404, 0.8936, 0.7660])
    """
    check_float("beta", beta, 0.0, 1.0)
    samples = nonzero_counts(counts, zero).double()
    # 1 - beta^n without the cancellation that costs all digits when beta is near one.
    effective = samples if beta == 1.0 else -torch.expm1(samples * torch.tensor(beta, dtype=torch.float64).log())
    return (len(samples) / effective / (1 / effective).sum()).float()


def log_priors(counts: Any, *, zero: str = "error") -> Tensor:
    r"""Logarithms of the class frequencies, :math:`\log \pi_c = \log(n_c / \sum_j n_j)`.

    Args:
        counts: Class counts n, shape [C].
        zero: Rule for classes without samples, see :func:`nonzero_counts`.

    Returns:
        Log-priors <= 0, float32, shape [C].

    Raises:
        ValueError: Counts that are none, or a class without samples under ``zero="error"``.

    Example:
        >>> log_priors([1, 3]).exp()
        tensor([0.2500, 0.7500])
    """
    samples = nonzero_counts(counts, zero).double()
    return (samples / samples.sum()).log().float()


def posthoc_logit_adjustment(logits: Tensor, class_counts: Any, tau: float = 1.0, *, zero: str = "error") -> Tensor:
    r"""Take the class frequencies out of the scores of a trained network, :math:`s_c - \tau \log \pi_c`.

    For metrics and predictions under any loss and every K: it changes which classes are among the K best, not only
    which is first. For a network that was trained with cross-entropy, :math:`\tau = 1` turns posterior
    probabilities into those under equally frequent classes. A loss that has used the class counts in training needs
    less or none; and as the shift is in units of the logits, cosine logits with a scale outside need tau divided by
    that scale. :class:`~lightning_topk.TopKMixin` does it in evaluation with ``posthoc_tau``.

    Args:
        logits: Scores s, shape [..., C].
        class_counts: Training counts n, shape [C]; read on the CPU.
        tau: Strength of the adjustment. Menon et al.: 1, or tuned on validation data.
        zero: Rule for classes without samples, see :func:`nonzero_counts`.

    Returns:
        Adjusted scores, shape [..., C], float32 for logits of lower precision.

    Raises:
        ValueError: Counts that are none or of another number of classes, or a class without samples under
            ``zero="error"``.

    References:
        Menon, Jayasumana, Rawat, Jain, Veit, Kumar, "Long-tail learning via logit adjustment", ICLR 2021.

    Example:
        >>> logits = torch.tensor([[0.0, 1.0]])
        >>> posthoc_logit_adjustment(logits, [1, 9]).argmax(-1)
        tensor([0])
    """
    check_logits(logits)
    check_float("tau", tau)
    check_counts(class_counts, logits.shape[-1])
    shift = tau * log_priors(class_counts, zero=zero).double()
    return logits - shift.to(logits.device, torch.promote_types(logits.dtype, torch.float32))


def class_groups(counts: Any, *, many: int = 100, few: int = 20) -> dict[str, Tensor]:
    """Split the classes by training count into many-, medium- and few-shot groups.

    Args:
        counts: Class counts, shape [C].
        many: Classes with more samples than this are "many".
        few: Classes with fewer samples than this are "few"; the rest, from ``few`` to ``many``, is "medium".

    Returns:
        Boolean masks of shape [C] under the keys ``"many"``, ``"medium"`` and ``"few"``; each class is in one.

    Raises:
        ValueError: ``few`` above ``many``, or counts that are none.

    References:
        The edges are those of Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition",
        ICLR 2020 (code).

    Example:
        >>> {name: int(mask.sum()) for name, mask in class_groups([500, 101, 100, 20, 19, 1]).items()}
        {'many': 2, 'medium': 2, 'few': 2}
    """
    check_int("few", few, 0)
    check_int("many", many, 0)
    if few > many + 1:
        raise ValueError(f"Parameter `few` should be at most `many + 1`. Found `few = {few}` with `many = {many}`.")
    values = check_counts(counts)
    above, below = values > many, values < few
    return {"many": above, "medium": ~(above | below), "few": below}
