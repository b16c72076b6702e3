"""Options of the trainer of which Lightning does not say what is wrong with them."""

import re
from collections.abc import Mapping
from typing import Any

_MOST = 65_536  # Lightning makes a list of the devices: beyond any machine it would fill the memory


def check_trainer_options(options: Mapping[str, Any]) -> None:
    """Raise for a number of devices or nodes that no machine has.

    Raises:
        ValueError: A number below 1, other than -1 for all devices, or beyond all machines; a text that is no number.
    """
    for name, special in (("devices", ", -1 for all, a list of their numbers, or `auto`"), ("num_nodes", "")):
        text = str(options.get(name))
        number = int(text) if re.fullmatch(r"-?\d+", text) else None
        fits = number is None or 1 <= number <= _MOST or (special and number == -1)
        if not fits or (isinstance(options.get(name), str) and not re.fullmatch(r"auto|[-\d,\s]+", text)):
            law = f"`--trainer.{name}` should be a number in [1, {_MOST}]{special}."
            raise ValueError(f"{law} Found `{text}`.")
