"""A look at the logits for losses whose scale and margins are made for cosines."""

import warnings

from torch import Tensor

from lightning_topk._checks import readable

LIMIT = 1.01  # a cosine, and what rounding adds to it


class CosineCheck:
    """Warn once when a loss with the scale of cosine logits gets others.

    It looks at calls 1, 2, 4, ..., so that the device is hardly ever waited for.

    Args:
        parameters: The parameters besides the scale that are in units of the logits, in words.

    Attributes:
        limit: The largest logit that is taken for a cosine; a loss that shifts the logits raises it.
    """

    def __init__(self, parameters: str) -> None:
        self.parameters = parameters
        self.limit = LIMIT
        self._calls = 0
        self._warned = False

    def __call__(self, logits: Tensor, scale: float) -> None:
        """Look at the logits [..., C] of a call of the loss, unless its scale fits ordinary logits."""
        if scale < 5.0 or self._warned or not readable(logits):
            return
        self._calls += 1
        if self._calls & (self._calls - 1) or not logits.numel():
            return
        largest = float(logits.detach().abs().amax())
        if largest > self.limit:
            warnings.warn(
                f"`scale = {scale:g}` is meant for cosine logits in [-1, 1], as heads.NormalizedLinear gives them. "
                f"Found logits up to {largest:.3g}: use that head, or `scale=1` and a {self.parameters} of the size of "
                "the logits' spread.",
                stacklevel=3,
            )
            self._warned = True
