"""The K best classes of every sample in one file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import Subset
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_topk._checks import check_choice
from lightning_topk.callbacks._report_output import log_dir_of
from lightning_topk.callbacks._training_counts import known_names
from lightning_topk.report._predictions import (
    FORMATS,
    Predictions,
    import_pyarrow,
    prediction_columns,
    write_predictions,
)
from lightning_topk.report._probabilities import softmax_factor

_LAW = (
    "What `predict_step` returns should be a mapping with `classes` [N, K] and `probabilities` or `logits` [N, K], as "
    "that of TopKClassifier, or logits [N, C], so that PredictionWriter can read it."
)


class PredictionWriter(Callback):
    """Write the K best classes of each sample that ``Trainer.predict`` sees, with names and scores, to one file.

    The file has one row for each sample, in the order of the data set, whatever the number of processes: a sample that
    a sampler repeated for the sake of equal shares is there once. Columns are ``index`` (position in the data set),
    ``path`` (of an image file, where the data set has ``samples`` as torchvision's folders do), ``target`` and
    ``target_name`` (where batches are pairs of inputs and class indices), then ``class_1``, ``name_1`` and
    ``probability_1`` or ``logit_1``, and so on, the best first; ``dataloader`` where there are several. What is not
    known is left out.

    The scores are called ``probability`` where the loss makes probabilities of the logits by a softmax
    (cross-entropy, focal, LDAM with its scale, balanced softmax, logit adjustment, vector scaling), and ``logit`` for
    all others, such as the hinge losses, whose scores say nothing but the order.

    The file is put in its place in one step when all is predicted. A process that is killed leaves no part of it, and
    an older file as it was; the next one starts over. Until then the rows are in memory, 24 + 12 K bytes each, and
    those of all processes on each at the end. Where the order of the samples is not known, as for streams, ``index``
    counts the rows, those of the first process first. With ``fast_dev_run`` there is no file.

    Args:
        path: The file; ``predictions.csv`` or ``predictions.parquet`` in the log directory when not given.
        format: ``"csv"`` or ``"parquet"``, which needs the package pyarrow.

    Attributes:
        written: The file that was written last, or None.

    Raises:
        ValueError: Another format.
        ModuleNotFoundError: Parquet without pyarrow.
        TypeError: Predictions of another kind, in ``predict``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=PredictionWriter("best.csv"), logger=False, enable_checkpointing=False)
    """

    def __init__(self, path: str | Path | None = None, format: str = "csv") -> None:
        self.path = None if path is None else str(path)
        self.format = check_choice("format", format, FORMATS)
        if self.format == "parquet":
            import_pyarrow()
        self.written: str | None = None
        self._parts: list[Predictions] = []
        self._loaders: list[Any] = []
        self._seen: dict[int, int] = {}
        self._score = "logit"

    def __repr__(self) -> str:
        return f"{type(self).__name__}(path={self.path!r}, format={self.format!r})"

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._parts, self._seen, self.written = [], {}, None
        self._loaders = CombinedLoader(trainer.predict_dataloaders).flattened

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._score, classes, scores = _best_of(outputs, pl_module)
        size = len(classes)
        start = self._seen.get(dataloader_idx, 0)
        self._seen[dataloader_idx] = start + size
        # Negative where the place in the data set is not known; it is given when all are together.
        places = _places(self._loaders[dataloader_idx], batch_idx)
        index = torch.tensor(places) if len(places) == size else torch.arange(-start - 1, -start - size - 1, -1)
        loader = torch.full((size,), dataloader_idx, dtype=torch.int64)
        self._parts.append(Predictions(loader, index.long(), _targets(batch, size), classes, scores))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        own, loaders = Predictions.joined(self._parts), self._loaders
        self._parts, self._loaders = [], []
        found = _gathered(own, trainer.strategy.root_device) if trainer.world_size > 1 else [own]
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        everything = _numbered(found).in_order()
        if not len(everything.index):
            return
        datasets = [getattr(each, "dataset", None) for each in loaders]
        names = known_names([getattr(trainer, "datamodule", None), *datasets])
        columns = prediction_columns(everything, self._score, names, _paths(everything, datasets))
        path = Path(self.path or Path(log_dir_of(trainer), f"predictions.{self.format}"))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_predictions(path, columns, self.format)
        self.written = str(path)


def _best_of(prediction: Any, pl_module: Any) -> tuple[str, Tensor, Tensor]:
    """Return what the scores are, the best classes [N, K] and their scores [N, K], on the CPU."""
    if isinstance(prediction, Tensor) and prediction.is_floating_point() and prediction.ndim == 2:
        factor = softmax_factor(getattr(pl_module, "topk_criterion", None))
        scores = prediction.float() if factor is None else (factor * prediction.float()).softmax(-1)
        best = scores.topk(min(getattr(pl_module, "topk_k", 5), scores.shape[1]))
        return "logit" if factor is None else "probability", best.indices.cpu(), best.values.cpu()
    if isinstance(prediction, Mapping) and isinstance(prediction.get("classes"), Tensor):
        for name, score in (("probabilities", "probability"), ("logits", "logit")):
            values, classes = prediction.get(name), prediction["classes"]
            if isinstance(values, Tensor) and values.shape == classes.shape and classes.ndim == 2:
                return score, classes.long().cpu(), values.float().cpu()
    found = sorted(prediction) if isinstance(prediction, Mapping) else type(prediction).__name__
    raise TypeError(f"{_LAW} Found {found} from {type(pl_module).__name__}.")


def _places(loader: Any, batch_idx: int) -> Sequence[int]:
    """Indices of a batch in the data set: Lightning records them in prediction; none where it cannot."""
    seen = getattr(getattr(loader, "batch_sampler", None), "seen_batch_indices", [])
    return seen[batch_idx] if batch_idx < len(seen) else []


def _targets(batch: Any, size: int) -> Tensor:
    """Labels of a batch that is a pair of inputs and class indices, else -1."""
    target = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    if isinstance(target, Tensor) and target.shape == (size,) and not target.is_floating_point():
        return target.long().cpu()
    return torch.full((size,), -1, dtype=torch.int64)


def _gathered(own: Predictions, device: torch.device) -> list[Predictions]:
    """Return the rows of all processes, each of which has to call this, also one without rows."""
    columns = (own.loader, own.index, own.target, own.classes)
    every = [gather_all_tensors(each.long().to(device)) for each in columns]
    every.append(gather_all_tensors(own.scores.to(device)))
    return [Predictions(*(column[rank].cpu() for column in every)) for rank in range(len(every[0]))]


def _numbered(parts: Sequence[Predictions]) -> Predictions:
    """Join the rows of all processes, and count those of a dataloader without known places in it."""
    everything = Predictions.joined(parts)
    for loader in everything.loader.unique().tolist():
        rows = everything.loader == loader
        if bool((everything.index[rows] < 0).any()):
            everything.index[rows] = torch.arange(int(rows.sum()))
    return everything


def _paths(found: Predictions, datasets: Sequence[Any]) -> list[str] | None:
    """Path of each sample, or None where not all data sets know those of their samples."""
    paths = []
    for loader, index in zip(found.loader.tolist(), found.index.tolist(), strict=True):
        dataset: Any = datasets[loader]
        while isinstance(dataset, Subset):
            dataset, index = dataset.dataset, dataset.indices[index]
        samples = getattr(dataset, "samples", None)
        if not isinstance(samples, list) or not 0 <= index < len(samples):
            return None
        path = samples[index][0] if isinstance(samples[index], tuple) else None
        if not isinstance(path, str):
            return None
        paths.append(path)
    return paths
