"""Options of the trainer of which Lightning does not say what is wrong with them."""

from collections.abc import Mapping
from typing import Any

_MOST = 65_536  # Lightning makes a list of the devices: beyond any machine it would fill the memory


def check_trainer_options(options: Mapping[str, Any]) -> None:
    """Raise for a number of devices or nodes that no machine has.

    Raises:
        ValueError: A number below 1, other than -1 for all devices, or beyond all machines.
    """
    for name, special in (("devices", ", -1 for all, a list of their numbers, or `auto`"), ("num_nodes", "")):
        text = str(options.get(name))
        if text.lstrip("-").isdigit() and not (1 <= int(text) <= _MOST or (special and int(text) == -1)):
            law = f"`--trainer.{name}` should be a number in [1, {_MOST}]{special}."
            raise ValueError(f"{law} Found `{text}`.")
