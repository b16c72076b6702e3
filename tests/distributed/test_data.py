"""Data modules in processes that were forked from one which had used them: nothing is shared that a fork disturbs."""

import zlib

import pytest

from ddp import run_ranks
from lightning_topk.data import _glyphs

pytestmark = pytest.mark.timeout(60)


def checksum() -> int:
    letters = _glyphs.list_letters()
    return zlib.crc32(_glyphs.render_letters(letters, [1] * len(letters), image_size=28, stream=(0,)).tobytes())


def test_letters_are_drawn_alike_after_a_fork() -> None:
    """Font files that are open before the fork must not be read by place from there: processes share the place."""
    expected = checksum()
    _glyphs._outline.cache_clear()
    assert run_ranks(lambda rank: checksum(), 3) == [expected] * 3
