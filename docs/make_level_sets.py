"""Draw the level sets of every loss into docs/images/level_sets: ``python docs/make_level_sets.py``."""

from pathlib import Path

import torch

from lightning_topk import losses
from lightning_topk.losses import TopKLoss
from lightning_topk.ops import LapSum, NeuralSort, SoftSort, SortingNetwork, SparseTopK
from lightning_topk.plot import plot_level_sets

# File name, and the loss with the parameters of the picture; classes 0 and 1 are frequent where counts matter.
PICTURES: dict[str, TopKLoss] = {
    "cross_entropy": losses.CrossEntropyLoss(),
    "focal": losses.FocalLoss(gamma=2.0),
    "balanced_softmax": losses.BalancedSoftmaxLoss(),
    "logit_adjusted": losses.LogitAdjustedLoss(tau=2.0),
    "vs": losses.VSLoss(gamma=0.3, tau=1.0),
    "ldam": losses.LDAMLoss(max_margin=0.5, scale=5.0),
    "noised_hard": losses.NoisedTopKLoss(k=2, epsilon=0.0),
    "noised_0.3": losses.NoisedTopKLoss(k=2, epsilon=0.3, num_samples=2000),
    "noised_1.0": losses.NoisedTopKLoss(k=2, epsilon=1.0, num_samples=2000),
    "noised_imbalanced": losses.ImbalancedNoisedTopKLoss(k=2, epsilon=0.3, num_samples=2000, max_margin=2.0),
    "gaussian": losses.GaussianTopKLoss(k=2, epsilon=0.3),
    "smooth_topk": losses.SmoothTopKLoss(k=2, tau=0.1),
    "psi1": losses.TopKHingeLoss(k=2, variant="psi1"),
    "psi2": losses.TopKHingeLoss(k=2, variant="psi2"),
    "psi3": losses.TopKHingeLoss(k=2, variant="psi3"),
    "psi4": losses.TopKHingeLoss(k=2, variant="psi4"),
    "svm_alpha": losses.TopKSVMLoss(k=2, variant="alpha"),
    "svm_beta": losses.TopKSVMLoss(k=2, variant="beta"),
    "topk_entropy": losses.TopKEntropyLoss(k=2),
    "truncated_topk_entropy": losses.TruncatedTopKEntropyLoss(k=2),
    "neural_sort": losses.SortingTopKLoss(k=2, operator=NeuralSort(), top1="sort"),
    "soft_sort": losses.SortingTopKLoss(k=2, operator=SoftSort(), top1="sort"),
    "sorting_network": losses.SortingTopKLoss(k=2, operator=SortingNetwork(), top1="sort"),
    "lapsum": losses.SoftTopKLoss(k=2, operator=LapSum(0.3)),
    "sparse_topk": losses.SoftTopKLoss(k=2, operator=SparseTopK(2.0), variant="linear"),
}


def main() -> None:
    folder = Path(__file__).parent / "images" / "level_sets"
    folder.mkdir(parents=True, exist_ok=True)
    for name, loss in PICTURES.items():
        if loss.needs_class_counts:
            loss.bind_class_counts(torch.tensor([100, 100, 5]))
        figure, _ = plot_level_sets(loss)
        figure.savefig(folder / f"{name}.png", dpi=80)


if __name__ == "__main__":
    main()
