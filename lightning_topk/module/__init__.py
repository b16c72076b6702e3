"""Where data meets the loss: a mixin for any LightningModule, and a ready classifier.

Example:
    >>> import lightning as L
    >>> import torch
    >>> from lightning_topk import TopKMixin
    >>> class Net(TopKMixin, L.LightningModule, loss="NoisedTopKLoss", k=3):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.net = torch.nn.Linear(8, 10)
    ...     def training_step(self, batch, batch_idx):
    ...         features, targets = batch
    ...         return self.topk_loss(self.net(features), targets)
    >>> net = Net()
    >>> net.topk_criterion
    NoisedTopKLoss(k=3, epsilon=1.0, num_samples=5)
"""

from lightning_topk.module._classifier import TopKClassifier
from lightning_topk.module._mixin import TopKMixin

__all__ = ["TopKClassifier", "TopKMixin"]
