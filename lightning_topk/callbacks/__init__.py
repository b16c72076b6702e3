"""Callbacks: what a loss needs from the run, and what a run should report.

:class:`ClassFrequencies` finds how many training samples each class has and binds the counts to the loss,
:class:`EpsilonScheduler` sets a scalar of the loss by a schedule of the training step, :class:`DeferredReweighting`
gives it class weights late in training, :class:`TopKReport` writes the table, files and figures of a run, and
:class:`PredictionWriter` the K best classes of each sample.
:class:`SeedEveryBatch` makes dropout and other draws of a training step a function of the run's seed, and
:class:`UnpaddedEvaluation` gives each process its share of the evaluation without repeating samples. All follow one
law: what they do is the same on every process, and a run that is resumed from a checkpoint goes on as if it had not
been stopped.

Example:
    >>> from lightning_topk.callbacks import EpsilonScheduler
    >>> from lightning_topk.schedules import Linear
    >>> EpsilonScheduler(Linear(start=1.0, end=0.2))
    EpsilonScheduler(Linear(start=1.0, end=0.2, length=None, delay=0), parameter='epsilon', interval='step')
"""

from lightning_topk.callbacks._class_frequencies import ClassFrequencies
from lightning_topk.callbacks._deferred_reweighting import DeferredReweighting
from lightning_topk.callbacks._epsilon_scheduler import EpsilonScheduler
from lightning_topk.callbacks._prediction_writer import PredictionWriter
from lightning_topk.callbacks._seed_every_batch import SeedEveryBatch
from lightning_topk.callbacks._topk_report import TopKReport
from lightning_topk.callbacks._unpadded_evaluation import UnpaddedEvaluation

__all__ = [
    "ClassFrequencies",
    "DeferredReweighting",
    "EpsilonScheduler",
    "PredictionWriter",
    "SeedEveryBatch",
    "TopKReport",
    "UnpaddedEvaluation",
]
