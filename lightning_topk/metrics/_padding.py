"""What a DistributedSampler repeats to give every process the same number of samples."""

from collections.abc import Sized
from typing import Any

from torch.utils.data import DistributedSampler


def unpadded_size(sampler: Any) -> int | None:
    r"""Return how many leading samples of this process are real, or None when the sampler repeats none.

    A ``DistributedSampler`` over N samples and W processes pads its list of indices to a multiple of W with samples
    from the front and gives process :math:`r` the positions :math:`r, r + W, \dots`; the real ones among them are the
    first

    .. math:: |\{r, r + W, \dots\} \cap [0, N)| = \text{len(range(r, N, W))}

    with or without shuffling. A metric whose ``sample_limit`` is this number counts every sample once.

    Args:
        sampler: Any sampler. None is returned for one that is no ``DistributedSampler``, has ``drop_last`` set, or is
            a subclass that does not pad (such as Lightning's ``UnrepeatedDistributedSampler``).

    Returns:
        The number of real samples, possibly 0, or None.

    Example:
        >>> [unpadded_size(DistributedSampler(range(61), num_replicas=2, rank=rank)) for rank in (0, 1)]
        [31, 30]
    """
    if not isinstance(sampler, DistributedSampler) or sampler.drop_last or not isinstance(sampler.dataset, Sized):
        return None
    num_samples, world_size = len(sampler.dataset), sampler.num_replicas
    if sampler.total_size % world_size:
        return None
    return len(range(sampler.rank, num_samples, world_size))
