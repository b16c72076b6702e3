"""Glyphs: letters that look alike across alphabets, rendered from the fonts that matplotlib ships."""

import unicodedata
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import ft2font
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.path import Path as Outline
from matplotlib.transforms import Affine2D
from torch import Tensor
from torch.utils.data import Dataset

from lightning_topk._checks import check_int
from lightning_topk.data._array_dataset import ArrayDataset, channel_statistics
from lightning_topk.data._augment import AugmentingCollate
from lightning_topk.data._base import LongTailDataModule
from lightning_topk.data._long_tail import long_tail_counts

# The text faces of the DejaVu family; by name, so that fonts added to the folder change nothing.
_FACES = tuple(
    f"DejaVu{family}{style}.ttf"
    for family, styles in {
        "Sans": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "SansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "Serif": ("", "-Bold", "-Italic", "-BoldItalic"),
    }.items()
    for style in styles
)
# Alphabets first: their capitals coincide (A in Latin, Greek and Cyrillic). Then the rest, by code point.
_ALPHABETS = (("A", "Z"), ("a", "z"), ("\u0391", "\u03a9"), ("\u03b1", "\u03c9"), ("\u0410", "\u044f"))
_SPLITS = ("train", "val", "test")
_SIZE = 0.6  # em of a letter of middle size, as a share of the image
_GRAIN = 160  # largest value of the grain, of 255
_EM = 2048  # units of the outlines: those of the font files, so that no coordinate is rounded


class GlyphsDataModule(LongTailDataModule):
    r"""Letters of the Latin, Greek and Cyrillic alphabets and their relatives, as small grey images; no download.

    A sample is a letter in one of twelve faces (DejaVu Sans, Mono and Serif: regular, bold, oblique), rotated by up to
    15 degrees, scaled by 0.8 to 1.2, shifted by up to a tenth of the image, in a lighter or darker ink on grainy paper.
    Every letter is a class of its own, and many share their shape with letters of other alphabets (Latin, Greek and
    Cyrillic A; Latin p and Cyrillic er) or differ from them in an accent that the grain may hide, so that one guess
    cannot do and several can, as with look-alike species. The training set is long-tailed; which letters are frequent
    is drawn from the seed and has nothing to do with the alphabets. Validation and test sets are balanced.

    Sample j of a class is a function of the seed, the split, the letter and j alone: the training set of one imbalance
    factor is contained in that of a smaller one. The images are drawn once, in about 0.05 ms each, and kept as bytes:
    the default sets (16 thousand training, 3 thousand validation and 6 thousand test images) take one or two seconds
    and 20 MB.

    Args:
        num_classes: Number of letters C, in [2, 1365]; the letters of a smaller number are among those of a larger.
        imbalance_factor: Ratio of the largest training count to the smallest; 1 gives balanced classes.
        profile: ``"exp"`` or ``"step"``, see :func:`~lightning_topk.data.long_tail_counts`.
        max_count: Training samples of the most frequent letter.
        val_count: Validation samples of every letter.
        test_count: Test samples of every letter.
        image_size: Height and width in pixels, >= 8.
        seed: Seed of the images and of the order of the letters in the tail.
        batch_size: Samples in a batch.
        num_workers: Worker processes of each loader.
        augment: Whether to turn, shift and scale the training images anew in every epoch.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range.

    Example:
        >>> data = GlyphsDataModule(num_classes=4, max_count=40, imbalance_factor=10, val_count=2, test_count=2)
        >>> data.class_counts.sort(descending=True).values, data.input_shape
        (tensor([40, 18,  8,  4]), (1, 28, 28))
        >>> data.class_names[0]
        'latin capital a'
        >>> images, targets = next(iter(data.val_dataloader()))
        >>> images.shape
        torch.Size([8, 1, 28, 28])
    """

    def __init__(
        self,
        num_classes: int = 300,
        imbalance_factor: float = 100.0,
        profile: str = "exp",
        max_count: int = 250,
        val_count: int = 10,
        test_count: int = 20,
        image_size: int = 28,
        seed: int = 0,
        batch_size: int = 128,
        num_workers: int = 0,
        augment: bool = False,
    ) -> None:
        super().__init__(imbalance_factor, profile, "shuffled", seed, batch_size, num_workers)
        self.save_hyperparameters(logger=False)
        self._num_classes = check_int("num_classes", num_classes, 2, len(list_letters()))
        self.max_count = check_int("max_count", max_count, 1)
        self.held_out = {"val": check_int("val_count", val_count, 1), "test": check_int("test_count", test_count, 1)}
        self.image_size = check_int("image_size", image_size, 8)
        self.train_collate = AugmentingCollate() if augment else None
        self._statistics: tuple[Tensor, Tensor] | None = None

    def read_names(self) -> list[str]:
        return [unicodedata.name(letter).replace(" LETTER", "").lower() for letter in self.letters]

    @property
    def letters(self) -> list[str]:
        """The letters themselves, in the order of the labels."""
        return list(list_letters()[: self._num_classes])

    def read_shape(self) -> tuple[int, ...]:
        return (1, self.image_size, self.image_size)

    def read_train_labels(self) -> Tensor:
        counts = np.array(long_tail_counts(self._num_classes, self.max_count, self.imbalance_factor, self.profile))
        order = np.random.default_rng([self.seed, 1]).permutation(self._num_classes)
        return torch.arange(self._num_classes).repeat_interleave(torch.from_numpy(counts[order]))

    def build(self, split: str) -> Dataset[Any]:
        if split == "train":
            targets = self.read_train_labels()
        else:
            targets = torch.arange(self._num_classes).repeat_interleave(self.held_out[split])
        counts = torch.bincount(targets, minlength=self._num_classes).tolist()
        stream = (self.seed, _SPLITS.index(split))
        images = render_letters(self.letters, counts, image_size=self.image_size, stream=stream)[:, None]
        if split == "train":
            self._statistics = channel_statistics(images)
        elif self._statistics is None:
            self.dataset("train")
        return ArrayDataset(images, targets, None, *(self._statistics or ()))


@cache
def list_letters() -> tuple[str, ...]:
    """Return the letters that all faces have, the alphabets first."""
    common = set.intersection(*(set(_face(name).get_charmap()) for name in _FACES))
    letters = sorted(chr(code) for code in common if unicodedata.category(chr(code)) in {"Lu", "Ll", "Lt", "Lo"})
    first = [letter for low, high in _ALPHABETS for letter in letters if low <= letter <= high]
    return tuple(dict.fromkeys(first + letters))


def render_letters(
    letters: Sequence[str], counts: Sequence[int], *, image_size: int, stream: tuple[int, ...]
) -> "np.ndarray[Any, Any]":
    """Draw several images of each letter, light on dark.

    The outlines come from the font files without hinting, and Agg, which matplotlib contains, fills them in fixed-point
    arithmetic: no version of a system library takes part.

    Args:
        letters: Letters that all faces have.
        counts: Images of each letter.
        image_size: Height and width in pixels.
        stream: Seed of the random numbers, to which each letter adds its code point.

    Returns:
        Images, uint8, shape [sum of counts, image_size, image_size], ordered by letter.
    """
    images = np.zeros((sum(counts), image_size, image_size), dtype=np.uint8)
    tile = RendererAgg(image_size, image_size, 72)
    pen = tile.new_gc()
    pen.set_linewidth(0)
    pen.set_antialiased(True)
    pen.set_snap(False)
    pen.set_sketch_params(None)  # the user's style sheets have no say here
    position = 0
    for letter, count in zip(letters, counts, strict=True):
        generator, grain = (np.random.default_rng([*stream, ord(letter), use]) for use in range(2))
        for face, turn, size, stretch, right, up, ink in generator.random((count, 7)):
            outline, middle = _outline(_FACES[int(face * len(_FACES))], letter)
            em = image_size / _EM * _SIZE * (0.8 + 0.4 * size)
            place = Affine2D().translate(-middle, -0.36 * _EM).scale(em * (0.9 + 0.2 * stretch), em)
            place.rotate_deg(30 * turn - 15)
            place.translate(image_size * (0.4 + 0.2 * right), image_size * (0.4 + 0.2 * up))
            tile.clear()
            tile.draw_path(pen, outline, place, (0.0, 0.0, 0.0))
            images[position] = np.asarray(tile.buffer_rgba())[..., 3] * (0.5 + 0.5 * ink)
            position += 1
        noise = grain.integers(0, _GRAIN + 1, (count, 2, image_size, image_size), dtype=np.uint8).min(1)
        images[position - count : position] = np.maximum(images[position - count : position], noise)
    return images


@cache
def _face(name: str) -> ft2font.FT2Font:
    # From memory: a font reads on from its open file, whose place processes share that are forked from this one.
    font = ft2font.FT2Font(BytesIO(Path(mpl.get_data_path(), "fonts", "ttf", name).read_bytes()))
    font.set_size(_EM, 72)
    return font


def _no_hinting() -> Any:
    if hasattr(ft2font, "LoadFlags"):
        return ft2font.LoadFlags.NO_HINTING
    return vars(ft2font)["LOAD_NO_HINTING"]  # before matplotlib 3.10


@cache
def _outline(face: str, letter: str) -> tuple[Outline, float]:
    """Return the outline of a letter in font units, and the middle of its width."""
    font = _face(face)
    font.load_char(ord(letter), flags=_no_hinting())
    vertices, codes = font.get_path()
    outline = Outline(vertices, codes)
    outline.should_simplify = False
    drawn = vertices[codes != Outline.CLOSEPOLY]  # closing vertices lie at the origin
    return outline, float(drawn[:, 0].min() + drawn[:, 0].max()) / 2
