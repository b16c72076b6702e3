"""Classifier heads: the layer from features to logits.

Example:
    >>> import torch
    >>> from lightning_topk.heads import NormalizedLinear
    >>> head = NormalizedLinear(8, 3)
    >>> logits = head(torch.randn(5, 8))
    >>> tuple(logits.shape), bool(logits.abs().max() <= 1.0001)
    ((5, 3), True)
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from lightning_topk._checks import check_int, check_values

__all__ = ["NormalizedLinear"]


def _unit(vectors: Tensor) -> Tensor:
    """Scale vectors [..., D] to length one, at first by their largest entry, as squares overflow and vanish sooner."""
    size = vectors.detach().abs().amax(-1, keepdim=True)
    return normalize(vectors / torch.where(size == 0, 1.0, size), dim=-1, eps=1e-4)


class NormalizedLinear(nn.Module):
    r"""Cosine classifier: logits are the cosines between features and class vectors.

    .. math:: s_c = \frac{\langle x, w_c \rangle}{\lVert x \rVert\, \lVert w_c \rVert} \in [-1, 1]

    Margins of the LDAM kind (:class:`~lightning_topk.losses.ImbalancedNoisedTopKLoss`) assume such logits: on an
    ordinary linear layer frequent classes grow long weight vectors, and a margin loses its meaning. It has no bias. A
    zero feature vector gives zero logits, with finite gradients.

    Args:
        in_features: Length D of a feature vector, >= 1.
        out_features: Number of classes C >= 1.
        device: As in :class:`torch.nn.Linear`.
        dtype: As in :class:`torch.nn.Linear`.

    Shape:
        features [..., D] -> logits [..., C].

    Raises:
        TypeError: Features of another dtype than the weights.
        ValueError: A size below one, or features of another length.

    References:
        Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018; the head of Cao et al.,
        NeurIPS 2019, and Garcin et al., ICML 2022.

    Example:
        >>> head = NormalizedLinear(2, 2)
        >>> _ = head.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 5.0]]))
        >>> head(torch.tensor([[1.0, 1.0]]))
        tensor([[0.7071, 0.7071]], grad_fn=<MmBackward0>)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check_int("in_features", in_features, 1)
        self.out_features = check_int("out_features", out_features, 1)
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw class vectors that are uniform on the unit sphere."""
        with torch.no_grad():
            self.weight.copy_(normalize(torch.randn_like(self.weight), dim=-1))

    def forward(self, features: Tensor) -> Tensor:
        check_values("features", features)
        if features.ndim < 1 or features.shape[-1] != self.in_features:
            raise ValueError(
                f"Argument `features` should have shape [..., {self.in_features}]. Found {list(features.shape)}."
            )
        if features.dtype != self.weight.dtype and not torch.is_autocast_enabled(features.device.type):
            raise TypeError(
                f"Argument `features` should have the dtype of the weights, {self.weight.dtype}. "
                f"Found {features.dtype}."
            )
        return linear(_unit(features), _unit(self.weight))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
