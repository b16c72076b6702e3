"""Data that a process keeps from one run to the next."""

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

from lightning_topk.data._base import LongTailDataModule


def kept_data(cache: MutableMapping[str, Any], config: Mapping[str, Any], datamodule: Any) -> Any:
    """Return the data module of the run before, with its data in memory, when it has the same options.

    Only data modules of this package are known to serve several runs; another one is returned as it is. One is kept at
    a time.

    Args:
        cache: Where it is kept.
        config: The complete configuration of the run.
        datamodule: The one that was made for the run.
    """
    if not isinstance(datamodule, LongTailDataModule):
        return datamodule
    name = json.dumps(config.get("data"), sort_keys=True)
    if name not in cache:
        cache.clear()
        cache[name] = datamodule
    return cache[name]
