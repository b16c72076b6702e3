"""Trainable parameters of a loss, such as the threshold of STk: every one in an optimizer, scalars without decay."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def train_loss_parameters(module: nn.Module, loss: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """See to it that the optimizers train the loss.

    A trainable parameter of the loss that is in no optimizer joins the first parameter group of the only one. It shares
    a group, as a group of its own would break the schedulers of learning rates that exist by now. Scalars are kept from
    weight decay in whatever group they are.

    Args:
        module: The module that is trained, the loss included.
        loss: The loss.
        optimizers: Optimizers of the run.

    Raises:
        ValueError: A trainable parameter of the loss is in none of several optimizers, or there is no optimizer.
    """
    own = {id(parameter) for parameter in module.parameters()}
    # Lightning puts an optimizer of nothing in the place of none.
    optimizers = [optimizer for optimizer in optimizers if own & _members(optimizer)]
    trained = {name: parameter for name, parameter in loss.named_parameters() if parameter.requires_grad}
    for name, parameter in trained.items():
        if any(id(parameter) in _members(optimizer) for optimizer in optimizers):
            continue
        if len(optimizers) != 1:
            raise ValueError(
                "Every trainable parameter of the loss should be in an optimizer. "
                f"Found `{name}` of {type(loss).__name__} in none of {len(optimizers)} optimizers: add "
                "`self.topk_criterion.parameters()` to one in `configure_optimizers`, or freeze the loss by "
                "`self.topk_criterion.requires_grad_(False)`."
            )
        group = optimizers[0].param_groups[0]
        group["params"].append(parameter)
        if "param_names" in group:
            group["param_names"].append(name)
    scalars = [parameter for parameter in trained.values() if parameter.numel() == 1]
    for optimizer in optimizers:
        inside = [scalar for scalar in scalars if id(scalar) in _members(optimizer)]
        if inside:
            shelter = _Shelter(inside)
            optimizer.register_step_pre_hook(shelter.before)
            optimizer.register_step_post_hook(shelter.after)


def _members(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


class _Shelter:
    """Keeps parameters from weight decay: zero while the optimizer updates them, where they stood plus the update then.

    That holds for decay as part of the gradient (SGD, Adam) and for decay of the weights (AdamW), under any schedule.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters = parameters
        self._held: list[tuple[nn.Parameter, Tensor]] = []

    def before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Go into shelter before the update; a closure is evaluated outside."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._hide(optimizer)
            return None
        outside = self._outside(optimizer, closure)
        return (args[:1], {**kwargs, "closure": outside})

    def after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Come out after the update."""
        self._return()

    def _outside(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        def outside() -> Any:
            self._return()
            result = closure()
            self._hide(optimizer)
            return result

        return outside

    @torch.no_grad()
    def _hide(self, optimizer: Optimizer) -> None:
        decayed = [group["params"] for group in optimizer.param_groups if group.get("weight_decay")]
        members = {id(parameter) for params in decayed for parameter in params}
        for parameter in self._parameters:
            if id(parameter) in members:
                self._held.append((parameter, parameter.clone()))
                parameter.zero_()

    @torch.no_grad()
    def _return(self) -> None:
        for parameter, value in self._held:
            parameter.add_(value)
        self._held.clear()
