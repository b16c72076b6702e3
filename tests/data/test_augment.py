"""Random changes of a batch of images."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

from lightning_topk.data._augment import AugmentingCollate

NOTHING = {"rotation": 0.0, "shift": 0.0, "scale": 0.0}


def test_nothing_changes_at_zero() -> None:
    images = torch.rand(5, 2, 9, 7)
    torch.testing.assert_close(AugmentingCollate(**NOTHING).augment(images), images)


def test_flips_are_the_four_mirror_images() -> None:
    images = torch.rand(1, 1, 6, 4).expand(64, 1, 6, 4)
    flipped = AugmentingCollate(**NOTHING, flip=True).augment(images)
    kinds = [images[0].flip(axes) for axes in ((), (1,), (2,), (1, 2))]
    found = [sum(torch.allclose(image, kind, atol=1e-5) for image in flipped) for kind in kinds]
    assert sum(found) == 64
    assert min(found) > 4


def test_a_rotation_keeps_shapes_on_oblong_images() -> None:
    # A disc stays where it is and as round as it was.
    rows, columns = torch.meshgrid(torch.arange(33) - 16.0, torch.arange(65) - 32.0, indexing="ij")
    disc = ((rows**2 + columns**2).sqrt() < 12).float().expand(16, 1, 33, 65)
    turned = AugmentingCollate(rotation=90.0, shift=0.0, scale=0.0).augment(disc)
    assert float((turned - disc).abs().mean()) < 0.02


def test_a_shift_moves_by_at_most_its_share() -> None:
    images = torch.zeros(200, 1, 21, 21)
    images[:, :, 10, 10] = 1.0
    moved = AugmentingCollate(rotation=0.0, shift=0.2, scale=0.0).augment(images)
    mass = moved[:, 0] / moved[:, 0].sum((1, 2), keepdim=True)
    columns = (mass.sum(1) * torch.arange(21)).sum(1) - 10
    assert float(columns.abs().max()) <= 0.2 * 21 + 1e-3
    assert float(columns.min()) < -2 < 2 < float(columns.max())


def test_a_batch_keeps_dtype_shape_and_labels() -> None:
    collate = pickle.loads(pickle.dumps(AugmentingCollate(flip=True)))
    images, labels = collate([(torch.rand(3, 8, 8), torch.tensor(i)) for i in range(5)])
    assert images.shape == (5, 3, 8, 8)
    assert images.dtype == torch.float32
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert repr(collate) == "AugmentingCollate(rotation=10, shift=0.06, scale=0.1, flip=True)"


def test_the_global_generator_decides() -> None:
    images = torch.rand(4, 1, 8, 8)
    collate = AugmentingCollate(flip=True)
    torch.manual_seed(1)
    first = collate.augment(images)
    assert not collate.augment(images).equal(first)
    torch.manual_seed(1)
    assert collate.augment(images).equal(first)


def test_bad_amounts() -> None:
    with pytest.raises(ValueError, match="`rotation` should be a finite number >= 0"):
        AugmentingCollate(rotation=-1.0)
    with pytest.raises(ValueError, match=r"`scale` should be a finite number >= 0 and <= 0.9"):
        AugmentingCollate(scale=math.nan)
