"""A training loader whose batches depend on the run's seed, the epoch and the position alone."""

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, default_collate

from lightning_topk._checks import check_int
from lightning_topk._ranks import seed_of_process, share_of_samples


def mixed(*numbers: int) -> int:
    """Return a seed of 64 bits that depends on every one of some non-negative integers and on their order."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


@dataclass
class RunSeed:
    """The seed of a run, shared by the loader, its sampler and whoever saves it; ``None`` as long as nobody asked."""

    value: int | None = None

    def settle(self) -> int:
        """Return the seed, which is that of ``seed_everything`` or of the global generator on the first call."""
        if self.value is None:
            self.value = seed_of_process()
        return self.value


class Keyed(list[Any]):
    """Indices or samples of one batch, with the seed of all that is drawn at random for it; it survives pickling."""

    def __init__(self, items: Any, key: int) -> None:
        super().__init__(items)
        self.key = key

    def __reduce__(self) -> Any:
        return type(self), (list(self), self.key)

    def generator(self) -> torch.Generator:
        """Return a generator for the batch as a whole, independent of what its samples draw."""
        return torch.Generator().manual_seed(mixed(self.key, 1))


class KeyedDataset(Subset[Any]):
    """A whole data set that draws what it draws from torch's global generator by the key of the batch.

    The global generator is as before afterwards, in whatever process the batch is loaded. Being a ``Subset``, it is
    known to everything that looks for labels.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        if not isinstance(dataset, Sized):
            raise TypeError(
                "Parameter `dataset` should have a length and deliver samples by index. "
                f"Found {type(dataset).__name__}: a stream has no place to go back to."
            )
        super().__init__(dataset, range(len(dataset)))

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        if not isinstance(indices, Keyed):
            return self._read(indices)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(indices.key)
            return Keyed(self._read(indices), indices.key)

    def _read(self, indices: list[int]) -> list[Any]:
        at_once: Callable[[list[int]], list[Any]] | None = getattr(self.dataset, "__getitems__", None)
        return at_once(list(indices)) if at_once is not None else [self.dataset[index] for index in indices]


class EpochSampler(Sampler[int]):
    """A permutation of all samples by the seed and the epoch, or by the global generator where there is no seed."""

    def __init__(self, length: int, seed: RunSeed) -> None:
        self.length, self.seed = length, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each, also through the sampler that it puts around this one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = None
        if self.seed.value is not None:
            generator = torch.Generator().manual_seed(mixed(self.seed.value, self.epoch))
        yield from torch.randperm(self.length, generator=generator).tolist()


class ResumableLoader(DataLoader[Any]):
    r"""A shuffling training loader with which a run that was stopped goes on at the very batch.

    In ``fit`` the order of the samples is a function of the run's seed and the epoch, and whatever is drawn at random
    for a batch (by transforms of its samples, from torch's global generator, or by a collate function that asks the
    batch for its generator) a function of the seed, the epoch, the rank and the place of the batch in the epoch. That
    holds for any number of workers. A resumed run leaves out the batches that it has seen without loading a sample. It
    takes its place from the trainer, which counts the batches that were trained on and not those that were fetched, so
    no checkpoint comes too early or too late: at the end of an epoch, in a validation, within accumulated gradients or
    with ``limit_train_batches``. Several processes, ``overfit_batches`` and samplers that Lightning puts in the place
    of the shuffling one go the same way.

    Outside of ``fit`` every pass over the loader is complete and draws from the global generator.

    Args:
        dataset: Data set with a length.
        batch_size: Samples in a batch, >= 1.
        trainer: The trainer whose ``fit`` will use the loader; ``self.trainer`` in a module or data module.
        seed: Seed of the run; that of ``seed_everything`` when not given.
        sampler: Order of the samples in place of the shuffling. For exact resumption its order has to be a function
            of its ``set_epoch``.
        collate_fn: Function from a list of samples to a batch.
        **options: Further arguments of :class:`torch.utils.data.DataLoader`.

    Raises:
        TypeError: A data set without a length.
        ValueError: A batch size below 1.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from torch.utils.data import TensorDataset
        >>> trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
        >>> loader = ResumableLoader(TensorDataset(torch.arange(10)), batch_size=4, trainer=trainer, seed=1)
        >>> len(loader), sum(len(batch) for (batch,) in loader)
        (3, 10)
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int = 1,
        *,
        trainer: Trainer | None = None,
        seed: int | RunSeed | None = None,
        sampler: Any = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        **options: Any,
    ) -> None:
        check_int("batch_size", batch_size, 1)
        keyed = dataset if isinstance(dataset, KeyedDataset) else KeyedDataset(dataset)
        self.trainer = trainer
        self.seed = seed if isinstance(seed, RunSeed) else RunSeed(seed)
        self._resumes = True
        self._place: tuple[int, ...] | None = None
        super().__init__(
            keyed,
            batch_size,
            sampler=EpochSampler(len(keyed), self.seed) if sampler is None else sampler,
            collate_fn=collate_fn or default_collate,
            **options,
        )

    def __iter__(self) -> Any:
        # A generator: nothing runs before the first batch is asked for, when Lightning has restored its counters. It
        # makes the iterator much earlier, and workers would begin to load the wrong batches.
        self._place = self._find_place()
        yield from super().__iter__()

    def _find_place(self) -> tuple[int, ...] | None:
        """Return seed, epoch, rank and first position of a pass, or ``None`` outside of training."""
        if self.trainer is None or not self.trainer.training:
            return None
        # Lightning tells samplers the epochs that were processed, one too many in a run by `max_steps` that goes on at
        # the end of an epoch.
        epoch = self.trainer.current_epoch
        set_epoch = getattr(self.sampler, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)
        # The remainder, for a short loader beside a longer one, which is gone through several times in an epoch.
        first = (self.trainer.fit_loop.batch_idx + 1) % max(len(self), 1) if self._resumes else 0
        self._resumes = False
        # Processes that work on the same samples, as under tensor parallelism, have to change them alike.
        share = share_of_samples(self.trainer)
        return self.seed.settle(), epoch, share, first

    @property
    def _index_sampler(self) -> Any:
        return _KeyedBatches(self, super()._index_sampler)

    def state_dict(self) -> dict[str, Any]:
        """Return the seed. The place is part of the trainer's own state, the same on every rank."""
        return {"seed": self.seed.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make ready to go on where the trainer that loaded the checkpoint stands."""
        self.seed.value = state["seed"]
        self._resumes = True


class _KeyedBatches:
    """The batches of indices from the first position on, each with its key."""

    def __init__(self, loader: ResumableLoader, batches: Any) -> None:
        self.loader, self.batches = loader, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Keyed]:
        *names, first = self.loader._place or (int(torch.empty((), dtype=torch.int64).random_()), 0)
        for position, indices in enumerate(self.batches):
            if position >= first:
                yield Keyed(indices, mixed(*names, position))
