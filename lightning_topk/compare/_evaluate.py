"""Rank histograms of a trained model, as it is and adjusted after training."""

import warnings
from pathlib import Path
from typing import Any

from lightning_topk.compare._jobs import PLAIN
from lightning_topk.compare._launcher import Parts
from lightning_topk.module import TopKMixin


def check_parts(parts: Parts, max_k: int) -> None:
    """Raise for a run that cannot be part of a comparison.

    Raises:
        TypeError: A module without :class:`~lightning_topk.TopKMixin`.
        ValueError: Fewer classes than the largest K, or a run of several processes.
    """
    model: Any = parts.model
    if not isinstance(model, TopKMixin):
        raise TypeError(
            "A comparison needs a LightningModule with TopKMixin, which counts the ranks of the labels. "
            f"Found {type(model).__name__}."
        )
    classes = model.topk_num_classes
    if classes is not None and max_k > classes:
        raise ValueError(
            f"Parameter `ks` should hold K in [1, C]. Found `ks` with {max_k}, and `C = {classes}` classes."
        )
    if parts.trainer.world_size > 1:
        raise ValueError(
            "Each run of a comparison should have one device, as in `--trainer.devices 1`; `--jobs` makes several runs "
            f"at a time. Found {parts.trainer.world_size} processes."
        )


def histograms(
    parts: Parts, split: str, variants: list[str], max_k: int, weights: Path | None
) -> dict[str, list[list[int]]]:
    """Evaluate a model on the validation or test set, once for each variant.

    Args:
        parts: Model, data and trainer.
        split: ``"val"`` or ``"test"``.
        variants: ``"plain"``, or a strength of the post-hoc adjustment as text.
        max_k: The largest K.
        weights: A checkpoint to load first; the model as it is when not given.

    Returns:
        Rank histograms [C, max_k + 1] as lists, by variant.

    Raises:
        ValueError: More than one set of the kind.
    """
    model: Any = parts.model
    evaluate = parts.trainer.validate if split == "val" else parts.trainer.test
    own_ks, own_tau, loggers = model.topk_ks, model.topk_posthoc_tau, parts.trainer.loggers
    found = {}
    # The mixin counts ranks up to the largest K that it logs; what it logs itself goes nowhere.
    model.topk_ks, parts.trainer.loggers = (max_k,), []
    try:
        for variant in variants:
            model.topk_posthoc_tau = own_tau if variant == PLAIN else float(variant)
            model.topk_evaluations.clear()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks used to create")
                evaluate(
                    model,
                    datamodule=parts.datamodule,
                    ckpt_path=None if weights is None else str(weights),
                    weights_only=None if weights is None else True,
                    verbose=False,
                )
            weights = None
            if list(model.topk_evaluations) != [f"{split}_0"]:
                raise ValueError(
                    f"A comparison needs one set of the kind `{split}`, on which `topk_loss` is called. "
                    f"Found {len(model.topk_evaluations)}."
                )
            found[variant] = model.topk_evaluations[f"{split}_0"].counted().tolist()
    finally:
        model.topk_ks, model.topk_posthoc_tau, parts.trainer.loggers = own_ks, own_tau, loggers
        model.topk_evaluations.clear()
    return found
