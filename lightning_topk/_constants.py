"""Tensors that belong to a module and follow it from device to device, but are no buffers."""

from typing import Any, ClassVar

from torch import Tensor, nn


class Constants(nn.Module):
    """Base of modules with constant tensors, in the attributes named by ``_constants``; each may also be ``None``.

    Buffers are what training changes, such as the statistics of batch norm. Callbacks that average weights average and
    swap them one by one in the order of ``buffers()``, and DDP sends them from rank 0 in every step. Class counts and
    what is made of them appear once, when the run has begun, and the average of whole numbers is none. They also keep
    their dtype when the module is cast, as losses and metrics are computed in float32 or more.
    """

    _constants: ClassVar[tuple[str, ...]] = ()

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        super()._apply(fn, *args, **kwargs)
        for name in self._constants:
            value = getattr(self, name)
            if isinstance(value, Tensor):
                moved = fn(value)
                setattr(self, name, moved if value.is_meta else value.to(moved.device))
        return self
