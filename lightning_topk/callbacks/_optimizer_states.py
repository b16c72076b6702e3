"""Optimizer states of a checkpoint that was written with another loss: with or without trainable parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

Place = Sequence[int]  # (optimizer, parameter group, position in the group)


def places_of(loss: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, list[int]]:
    """Find the trainable parameters of a loss in the optimizers: name to optimizer, group and position."""
    names = {id(parameter): name for name, parameter in loss.named_parameters()}
    return {
        names[id(parameter)]: [index, number, position]
        for index, optimizer in enumerate(optimizers)
        for number, group in enumerate(optimizer.param_groups)
        for position, parameter in enumerate(group["params"])
        if id(parameter) in names
    }


def fit_states(states: Sequence[dict[str, Any]], written: Mapping[str, Place], wanted: Mapping[str, Place]) -> None:
    """Make states of optimizers fit those of another loss, in place.

    Optimizers know parameters by their number alone. What the loss of the checkpoint had trained is taken out, and put
    back where the new loss trains it under the same name; a parameter that only the new one has starts without a state.

    Args:
        states: States as :meth:`torch.optim.Optimizer.state_dict` gives them.
        written: Places of the loss's parameters when the checkpoint was written, as :func:`places_of` gives them.
        wanted: Those of the run that goes on from it.
    """
    kept = {}
    for name, place in sorted(written.items(), key=lambda item: tuple(item[1]), reverse=True):
        group = _group(states, place)
        if group is not None and place[2] < len(group["params"]):
            kept[name] = states[place[0]]["state"].pop(group["params"].pop(place[2]), None)
            if "param_names" in group:
                group["param_names"].pop(place[2])
    for name, place in sorted(wanted.items(), key=lambda item: tuple(item[1])):
        group = _group(states, place)
        if group is not None:
            state = states[place[0]]
            number = 1 + max((each for other in state["param_groups"] for each in other["params"]), default=-1)
            group["params"].insert(place[2], number)
            if kept.get(name) is not None:
                state["state"][number] = kept[name]
            if "param_names" in group:
                group["param_names"].insert(place[2], name)


def _group(states: Sequence[dict[str, Any]], place: Place) -> dict[str, Any] | None:
    """Return the parameter group of a place, or None where the states have none that numbers its parameters."""
    groups = states[place[0]].get("param_groups", []) if place[0] < len(states) else []
    if place[1] < len(groups) and all(isinstance(each, int) for each in groups[place[1]]["params"]):
        return groups[place[1]]
    return None
