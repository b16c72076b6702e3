"""The embedded letters."""

from __future__ import annotations

import unicodedata
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch

from lightning_topk.data import GlyphsDataModule, find_class_counts, find_labels, long_tail_counts
from lightning_topk.data._glyphs import _FACES, _outline, list_letters, render_letters

SMALL: dict[str, Any] = {"num_classes": 12, "max_count": 30, "imbalance_factor": 10, "val_count": 2, "test_count": 3}


@pytest.fixture(scope="module")
def small() -> GlyphsDataModule:
    return GlyphsDataModule(**SMALL)


def test_facts_are_known_before_the_set_up() -> None:
    data = GlyphsDataModule()
    assert data.num_classes == len(data.class_names) == len(data.class_counts) == 300
    assert data.input_shape == (1, 28, 28)
    assert data.num_channels == 1
    assert sorted(data.class_counts.tolist(), reverse=True) == long_tail_counts(300, 250, 100)
    assert 10_000 <= int(data.class_counts.sum()) <= 20_000
    assert not data._datasets


def test_every_letter_has_a_name_of_its_own() -> None:
    letters = list_letters()
    names = GlyphsDataModule(num_classes=len(letters)).class_names
    assert len(set(names)) == len(set(letters)) == len(letters) >= 1333
    assert all(name.isascii() for name in names)
    assert [
        letters[names.index(f"{script} capital {name}")] for script, name in (("latin", "a"), ("greek", "alpha"))
    ] == [
        "A",
        "\u0391",
    ]


def test_the_default_letters_span_three_alphabets_that_look_alike() -> None:
    letters = GlyphsDataModule().letters
    names = [unicodedata.name(letter) for letter in letters]
    assert sum(name.startswith("LATIN") for name in names) >= 52
    assert sum(name.startswith("GREEK") for name in names) >= 49
    assert sum(name.startswith("CYRILLIC") for name in names) >= 64
    # Letters with the very outline of another letter in every face: no classifier can tell them apart.
    shapes: dict[bytes, list[str]] = {}
    for letter in letters:
        shapes.setdefault(b"".join(_outline(face, letter)[0].vertices.tobytes() for face in _FACES), []).append(letter)
    twins = [group for group in shapes.values() if len(group) > 1]
    assert ["B", "\u0392", "\u0412"] in twins
    assert sum(map(len, twins)) >= 50


def test_frequent_letters_come_from_all_alphabets() -> None:
    data = GlyphsDataModule()
    frequent = data.class_counts.topk(100).indices.tolist()
    scripts = [data.class_names[c].split()[0] for c in frequent]
    for script in ("latin", "greek", "cyrillic"):
        share = sum(name.startswith(script) for name in data.class_names) / 300
        assert abs(scripts.count(script) / 100 - share) < 0.12


def test_the_loaders_deliver_what_the_properties_say(small: GlyphsDataModule) -> None:
    small.setup("fit")
    images, labels = zip(*small.train_dataloader(), strict=True)
    assert torch.cat(labels).bincount(minlength=12).equal(small.class_counts)
    assert find_class_counts(small.train_dataloader().dataset, 12).equal(small.class_counts)
    stacked = torch.cat(images)
    assert stacked.shape[1:] == small.input_shape
    assert stacked.dtype == torch.float32
    assert abs(float(stacked.mean())) < 1e-4
    assert abs(float(stacked.std()) - 1) < 1e-2
    for loader, count in ((small.val_dataloader(), 2), (small.test_dataloader(), 3), (small.predict_dataloader(), 3)):
        assert torch.cat([batch for _, batch in loader]).bincount().tolist() == [count] * 12


def test_two_constructions_are_equal(small: GlyphsDataModule) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    again = GlyphsDataModule(**SMALL)
    for split in ("train", "val", "test"):
        assert np.array_equal(again.dataset(split).array, small.dataset(split).array)
        assert find_labels(again.dataset(split)).equal(find_labels(small.dataset(split)))


def test_another_seed_gives_other_images_and_another_tail(small: GlyphsDataModule) -> None:
    other = GlyphsDataModule(**SMALL, seed=1)
    assert other.class_counts.tolist() != small.class_counts.tolist()
    assert not np.array_equal(other.dataset("val").array, small.dataset("val").array)


def test_splits_share_no_image(small: GlyphsDataModule) -> None:
    seen = [{image.tobytes() for image in small.dataset(split).array} for split in ("train", "val", "test")]
    assert sum(map(len, seen)) == len(set().union(*seen))
    assert len(seen[0]) == int(small.class_counts.sum())


def test_a_sample_does_not_depend_on_the_number_of_others() -> None:
    few = render_letters(["g", "\u0416"], [2, 3], image_size=20, stream=(4, 0))
    many = render_letters(["\u0416", "g"], [5, 6], image_size=20, stream=(4, 0))
    assert np.array_equal(few[:2], many[5:7])
    assert np.array_equal(few[2:], many[:3])


def test_balanced_and_larger_images() -> None:
    data = GlyphsDataModule(num_classes=3, max_count=4, imbalance_factor=1, image_size=40, augment=True)
    assert data.class_counts.tolist() == [4, 4, 4]
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (12, 1, 40, 40)


def test_letters_lie_within_the_image() -> None:
    images = render_letters(list_letters()[:300], [2] * 300, image_size=28, stream=(0, 0)).astype(float)
    # Ink is darker than the grain; little of it touches the edge.
    ink = images > 165
    edge = np.concatenate([ink[:, 0], ink[:, -1], ink[:, :, 0], ink[:, :, -1]], axis=1)
    assert ink.any((1, 2)).mean() > 0.7
    assert edge.any(1).mean() < 0.02


def test_images_are_the_same_on_every_machine() -> None:
    # Recorded on x86-64 with matplotlib 3.8.4, 3.10.1 and 3.11.2, which agree in every pixel.
    images = render_letters(["A", "\u03a9", "\u0436", "\u0125"], [8] * 4, image_size=28, stream=(0, 0))
    assert images.reshape(4, -1).mean(1) == pytest.approx([60.693, 62.439, 63.680, 61.222], abs=0.02)


def test_style_sheets_do_not_change_the_images() -> None:
    plain = render_letters(["a"], [4], image_size=28, stream=(0, 0))
    with mpl.rc_context({"path.sketch": (3, 50, 2), "path.snap": True, "text.hinting": "force_autohint"}):
        assert np.array_equal(render_letters(["a"], [4], image_size=28, stream=(0, 0)), plain)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 1}, ValueError, r"`num_classes` should be an integer in \[2, \d+\]. Found `num_classes = 1`"),
        ({"num_classes": 9999}, ValueError, "Found `num_classes = 9999`"),
        ({"max_count": 0}, ValueError, "`max_count` should be an integer >= 1"),
        ({"val_count": 0}, ValueError, "`val_count` should be an integer >= 1"),
        ({"test_count": 1.5}, TypeError, "`test_count` should be an integer >= 1"),
        ({"image_size": 4}, ValueError, "`image_size` should be an integer >= 8"),
        ({"imbalance_factor": 0.9}, ValueError, "`imbalance_factor` should be a finite number >= 1"),
        ({"imbalance_factor": float("nan")}, ValueError, "`imbalance_factor` should be a finite number >= 1"),
        ({"profile": "zipf"}, ValueError, "`profile` should be one of 'exp', 'step'"),
        ({"seed": -1}, ValueError, "`seed` should be an integer >= 0"),
        ({"batch_size": 0}, ValueError, "`batch_size` should be an integer >= 1"),
        ({"num_workers": -1}, ValueError, r"`num_workers` should be an integer in \[0, 1024\]"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GlyphsDataModule(**arguments)


def test_an_unknown_split(small: GlyphsDataModule) -> None:
    with pytest.raises(ValueError, match=r"`split` should be one of 'train', 'val', 'test'. Found `split = 'dev'`"):
        small.dataset("dev")
