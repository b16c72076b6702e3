"""The noised top-K loss of Garcin et al. (2022), and what its balanced and imbalanced modules share."""

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_topk._checks import (
    check_classes_exceed_k,
    check_int,
    check_logits,
    check_num_samples,
    check_per_class,
)
from lightning_topk._reduce import reduce_labels
from lightning_topk.losses._base import TopKLoss, checked_scalar, non_negative, positive
from lightning_topk.ops._fixed_noise import fixed_noise
from lightning_topk.ops._gather import mean_hinge
from lightning_topk.ops._noised_topk import kth_draws


def noised_topk_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    k: int = 5,
    epsilon: float = 1.0,
    num_samples: int = 5,
    margin: float | Tensor = 1.0,
    scale: float = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Noised top-K calibrated hinge loss.

    .. math::
        \ell(s, y) = \bigl(\lambda\,(m_y + \widehat{\mathrm{top}}_{K+1,\epsilon,B}(s) - s_y)\bigr)_+

    where :math:`\widehat{\mathrm{top}}_{K+1,\epsilon,B}` is the mean of the (K+1)-th largest score under B draws of
    Gaussian noise (:func:`lightning_topk.ops.noised_topk`), taken over all classes, the label included. The gradient
    of an active row has at most B + 1 entries that are not zero and sums to 0.

    Args:
        logits: Scores s, shape [..., C].
        targets: Class indices y, shape [...], or soft labels, shape [..., C].
        k: Number of guesses K in [1, C).
        epsilon: Standard deviation of the noise, >= 0, in units of the logits. 0 gives the top-K calibrated hinge
            loss. Garcin et al.: 0.2 (CIFAR-100) and 1.0 (Pl@ntNet-300K), 0.01 with cosine logits.
        num_samples: Number of draws B >= 1. Garcin et al.: 5 and 10.
        margin: Margin m, one number >= 0 for all classes, or a tensor of shape [C].
        scale: Factor lambda > 0 on the hinge. It acts as a learning rate relative to the weight decay.
        weight: Class weights, shape [C].
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        noise: Standard normal noise to use instead of drawing it, shape [B, C] (the same for every row) or [N, B, C]
            with N the number of rows.
        generator: Source of the noise; torch's global one when None.

    Returns:
        A scalar, or shape [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, C <= K, shapes that do not fit, or a class index outside [0, C).

    References:
        Garcin, Servajean, Joly, Salmon, "Stochastic smoothing of the top-K calibrated hinge loss for deep imbalanced
        classification", ICML 2022, sections 3 and 4.

    Example:
        >>> logits = torch.tensor([[4.0, -1.5, 2.5, 1.0]])
        >>> noise = torch.tensor([[0.0, 0.0, 0.0, 2.0], [-2.0, 0.0, 0.0, 0.0]])
        >>> noised_topk_loss(logits, torch.tensor([2]), k=1, noise=noise)
        tensor(1.)
    """
    k = check_int("k", k, 1)
    epsilon = non_negative("epsilon", epsilon)
    num_samples = check_num_samples(num_samples)
    scale = positive("scale", scale)
    _check_generator(generator)
    if noise is not None and not (isinstance(noise, Tensor) and noise.is_floating_point()):
        found = noise.dtype if isinstance(noise, Tensor) else type(noise).__name__
        raise TypeError(f"Argument `noise` should be a floating point tensor. Found {found}.")
    if not isinstance(margin, Tensor):
        margin = non_negative("margin", margin)
    return _noised_hinge(
        logits, targets, k, epsilon, num_samples, margin, scale, weight, ignore_index, reduction, noise, generator
    )


def _noised_hinge(
    logits: Tensor,
    targets: Tensor,
    k: int,
    epsilon: float,
    num_samples: int,
    margin: float | Tensor,
    scale: float,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the loss for settings that are checked already, as those of a module are where they are set."""
    check_logits(logits)
    check_classes_exceed_k(k, logits.shape[-1])
    if isinstance(margin, Tensor):
        check_per_class("margin", margin, logits)

    def label_loss(scores: Tensor, labels: Tensor) -> tuple[Tensor, bool]:
        classes, offsets, finite = kth_draws(scores, k + 1, epsilon, num_samples, noise, generator)
        margins = margin.to(offsets)[labels] if isinstance(margin, Tensor) else margin
        added = offsets.mean(-1, keepdim=True) + margins
        if labels.shape[-1] == 1:
            return mean_hinge(scores, classes, labels, added, scale), finite
        return torch.relu(scale * (added + scores.gather(-1, classes).mean(-1, keepdim=True) - scores)), finite

    return reduce_labels(
        label_loss, logits, targets, weight=weight, ignore_index=ignore_index, reduction=reduction, upcast=False
    )


def _check_generator(generator: Any) -> torch.Generator | None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"Parameter `generator` should be a torch.Generator. Found {type(generator).__name__}.")
    return generator


class NoisedBase(TopKLoss):
    """What the noised losses share: k, epsilon, num_samples, and where their noise comes from."""

    epsilon = checked_scalar("epsilon", non_negative, "Standard deviation of the noise, >= 0; may be scheduled.")
    scale = checked_scalar("scale", positive, "Factor on the hinge, > 0; may be scheduled.")
    _always_shown: ClassVar[tuple[str, ...]] = ("k", "epsilon", "num_samples")

    def __init__(
        self, k: int, epsilon: float, num_samples: int, scale: float, generator: torch.Generator | None, **common: Any
    ) -> None:
        super().__init__(**common)
        self.k = check_int("k", k, 1)
        self.epsilon = epsilon
        self.num_samples = check_num_samples(num_samples)
        self.scale = scale
        self.generator = _check_generator(generator)
        self._noise_key: tuple[int, ...] | None = None
        self._noise_calls = 0

    def seed_noise(self, *key: int) -> None:
        """Address the noise of the calls that follow by a key, such as (run seed, rank, step).

        The same key gives the same noise, so that nothing has to be saved for a run to resume exactly; different keys
        give independent noise. Without a key, noise comes from ``generator`` or torch's global one.

        Args:
            key: Integers; none at all to return to the generator.

        Example:
            >>> loss = NoisedTopKLoss(k=1)
            >>> logits, targets = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)
            >>> loss.seed_noise(0, 0, 17)
            >>> first = loss(logits, targets)
            >>> loss.seed_noise(0, 0, 17)
            >>> bool(first == loss(logits, targets))
            True
        """
        self._noise_key, self._noise_calls = key or None, 0

    def _noise(self, logits: Tensor) -> dict[str, Any]:
        """Noise of one call or its source, as an argument of the loss."""
        if self.epsilon == 0.0:
            return {}
        if not self.training:
            check_logits(logits)
            # One draw for all rows: the loss of a sample does not depend on the batch, rank or device it is seen in.
            return {"noise": fixed_noise(self.num_samples, logits)}
        if self._noise_key is None:
            return {"generator": self.generator}
        address = repr((*self._noise_key, self._noise_calls)).encode()
        self._noise_calls += 1
        seed = int.from_bytes(hashlib.blake2b(address, digest_size=8).digest(), "big") >> 1
        return {"generator": torch.Generator(logits.device).manual_seed(seed)}

    def _loss(self, logits: Tensor, targets: Tensor, margin: float | Tensor) -> Tensor:
        return _noised_hinge(
            logits,
            targets,
            self.k,
            self.epsilon,
            self.num_samples,
            margin,
            self.scale,
            self.weight,
            self.ignore_index,
            self.reduction,
            **self._noise(logits),
        )


class NoisedTopKLoss(NoisedBase):
    r"""Noised top-K calibrated hinge loss with one margin for all classes (balanced).

    .. math:: \ell(s, y) = (\lambda\,(m + \widehat{\mathrm{top}}_{K+1,\epsilon,B}(s) - s_y))_+

    In ``train()`` every call draws new noise; in ``eval()`` one fixed draw is used for all rows, so that the loss of a
    sample depends on that sample alone. See :func:`~lightning_topk.losses.noised_topk_loss`.

    Args:
        k: Number of guesses K in [1, C).
        epsilon: Standard deviation of the noise, >= 0, in units of the logits. Garcin et al.: 1.0 on Pl@ntNet-300K,
            0.2 on CIFAR-100. May be set at any time, ``loss.epsilon = 0.5``.
        num_samples: Number of draws B >= 1. Garcin et al.: 5 and 10.
        margin: Margin m >= 0, in units of the logits.
        scale: Factor lambda > 0 on the hinge.
        weight: Class weights, one number >= 0 per class.
        ignore_index: Target value that is not counted.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        generator: Source of the noise; torch's global one when None. Not used once
            :meth:`seed_noise` gave a key, as :class:`~lightning_topk.TopKMixin` does.

    Shape:
        logits [..., C], targets [...] or [..., C]; returns a scalar, or [...] for ``"none"``.

    Raises:
        TypeError: A wrong dtype or type.
        ValueError: A parameter out of range, C <= K, shapes that do not fit, or a class index outside [0, C).

    References:
        Garcin, Servajean, Joly, Salmon, ICML 2022, section 3.

    Example:
        >>> loss = NoisedTopKLoss(k=1, epsilon=0.3, num_samples=10)
        >>> loss
        NoisedTopKLoss(k=1, epsilon=0.3, num_samples=10)
        >>> logits = torch.tensor([[4.0, -1.5, 2.5, 1.0]], requires_grad=True)
        >>> loss(logits, torch.tensor([3])).backward()
        >>> round(float(logits.grad.sum()), 6), float(logits.grad[0, 3])
        (0.0, -1.0)
    """

    margin = checked_scalar("margin", non_negative, "Margin, >= 0; may be scheduled.")

    def __init__(
        self,
        k: int = 5,
        *,
        epsilon: float = 1.0,
        num_samples: int = 5,
        margin: float = 1.0,
        scale: float = 1.0,
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            k, epsilon, num_samples, scale, generator, weight=weight, ignore_index=ignore_index, reduction=reduction
        )
        self.margin = margin

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self._loss(logits, targets, self.margin)
