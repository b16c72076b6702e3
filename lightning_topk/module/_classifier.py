"""A ready classifier: backbone, head, loss and metrics."""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from lightning_topk._checks import check_float, check_int
from lightning_topk.backbones import build_backbone
from lightning_topk.heads import NormalizedLinear
from lightning_topk.losses import TopKLoss
from lightning_topk.module._mixin import TopKMixin
from lightning_topk.report._probabilities import softmax_factor

if TYPE_CHECKING:
    _Loss = TopKLoss | dict[str, Any] | str
else:
    _Loss = TopKLoss  # What the command line reads: there a misspelt name should be an error, not one more string.


class TopKClassifier(TopKMixin, pl.LightningModule):
    """Image or feature classifier with a top-K loss: a backbone, a linear or cosine head, metrics.

    The optimizer is AdamW, its learning rate rises over the first tenth of the steps and falls to zero along half a
    cosine wave; another one comes from LightningCLI
    (``--optimizer SGD --lr_scheduler CosineAnnealingLR``) or from overriding ``configure_optimizers``. Logged are
    ``train_loss``, ``val_loss``, ``test_loss`` and the metrics of :class:`TopKMixin`.

    Args:
        backbone: A name of :func:`~lightning_topk.backbones.build_backbone`, such as ``"small_convnet"`` for small
            images, ``"identity"`` for feature vectors or ``"resnet50"``, or any module from inputs to features [N, D]
            with D in its attribute ``num_features`` or ``out_features``.
        num_classes: Number of classes C > k.
        loss: The loss: an object, ``{"class_path": ..., "init_args": {...}}``, or a name from
            :mod:`lightning_topk.losses`.
        k: Number of guesses; that of the loss, or 5, when not given.
        weights: Pretrained weights of the backbone by torchvision's name, such as ``"DEFAULT"``.
        normalized_head: Whether the logits are cosines (:class:`~lightning_topk.heads.NormalizedLinear`), as margins by
            class count assume.
        in_channels: Channels of the images for a backbone by name.
        learning_rate: Largest learning rate of AdamW, > 0.
        weight_decay: Weight decay of AdamW, >= 0.
        class_counts: See :class:`TopKMixin`.
        metrics: See :class:`TopKMixin`.
        posthoc_tau: See :class:`TopKMixin`; predictions are adjusted too.

    Raises:
        ValueError: A backbone, weights or loss that does not exist, or a parameter out of range.

    Example:
        >>> model = TopKClassifier("small_convnet", num_classes=10, loss="NoisedTopKLoss", k=3, in_channels=1)
        >>> tuple(model(torch.randn(2, 1, 28, 28)).shape)
        (2, 10)
    """

    def __init__(
        self,
        backbone: str | nn.Module = "resnet18",
        *,
        num_classes: int,
        loss: _Loss = "ImbalancedNoisedTopKLoss",
        k: int | None = None,
        weights: str | None = None,
        normalized_head: bool = False,
        in_channels: int = 3,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        class_counts: list[int] | str | None = None,
        metrics: bool | list[int] = True,
        posthoc_tau: float | None = None,
    ) -> None:
        check_int("num_classes", num_classes, 2)
        super().__init__(
            loss=loss,
            k=k,
            num_classes=num_classes,
            class_counts=class_counts,
            metrics=metrics,
            log_loss=True,
            posthoc_tau=posthoc_tau,
        )
        check_float("learning_rate", learning_rate, 0.0, low_open=True)
        check_float("weight_decay", weight_decay, 0.0)
        if isinstance(backbone, str):
            self.backbone, num_features = build_backbone(backbone, weights=weights, in_channels=in_channels)
        else:
            self.backbone, num_features = backbone, _num_features(backbone)
        head = NormalizedLinear if normalized_head else nn.Linear
        self.head = head(num_features, num_classes)
        # Hyper-parameters hold primitives alone, or the checkpoint could not be loaded with weights only.
        if isinstance(self.topk_criterion, TopKLoss):
            loss = self.topk_criterion.spec()
        if not isinstance(backbone, str):
            backbone = None  # type: ignore[assignment]
        self.save_hyperparameters()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights; with ``strict=False`` the head is left as it is where the weights are for other classes."""
        stored, own = state_dict.get("head.weight"), self.head.weight
        if stored is not None and len(stored) != len(own):
            if strict:
                raise RuntimeError(
                    "A checkpoint should be one of a model with as many classes. "
                    f"Found {len(stored)} in the checkpoint and {len(own)} here: to fine-tune on other classes, "
                    "`TopKClassifier.load_from_checkpoint(path, num_classes=..., strict=False)` starts a new head."
                )
            of_classes = ("head.", "topk_criterion.class_counts")
            state_dict = {name: value for name, value in state_dict.items() if not name.startswith(of_classes)}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.backbone(inputs))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._step(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._step(batch)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._step(batch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return the k best classes of each row, ``classes`` [N, k], and their scores, ``logits`` [N, k].

        Where the loss makes probabilities of the logits by a softmax, as cross-entropy does and no hinge loss, they are
        there as well, ``probabilities`` [N, k].
        """
        inputs = batch[0] if isinstance(batch, (list, tuple)) else batch
        scores = self.topk_scores(self(inputs))
        best = torch.topk(scores, self.topk_k)
        found = {"classes": best.indices, "logits": best.values}
        factor = softmax_factor(self.topk_criterion)
        if factor is not None:
            normalizer = torch.logsumexp(factor * scores.float(), -1, keepdim=True)
            found["probabilities"] = torch.exp(factor * best.values.float() - normalizer)
        return found

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.hparams["learning_rate"], weight_decay=self.hparams["weight_decay"]
        )
        steps = self.trainer.estimated_stepping_batches
        if not 0 < steps < float("inf"):
            return optimizer
        schedule = LambdaLR(optimizer, partial(_warm_up_and_cosine, steps=int(steps)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _step(self, batch: Any) -> Tensor:
        inputs, targets = batch
        return self.topk_loss(self(inputs), targets)


def _warm_up_and_cosine(step: int, steps: int) -> float:
    """Factor on the learning rate; a pure function, so that a run that is resumed may also be made longer."""
    warm_up = max(1, steps // 10)
    done = min(max(0, step - warm_up) / max(1, steps - warm_up), 1.0)
    return min((step + 1) / warm_up, (1 + math.cos(math.pi * done)) / 2)


def _num_features(backbone: nn.Module | None) -> int:
    if backbone is None:
        raise ValueError(
            "A backbone that was a module when the checkpoint was written should be given again, as it has no "
            "primitive form: `load_from_checkpoint(path, backbone=...)`. Found None."
        )
    for name in ("num_features", "out_features"):
        size = getattr(backbone, name, None)
        if isinstance(size, int):
            return size
    raise ValueError(
        "A backbone that is a module should tell the length of its feature vectors in `num_features` or "
        f"`out_features`. Found neither in {type(backbone).__name__}."
    )
