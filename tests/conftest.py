"""Fixtures and settings that every test shares."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"  # before the first import of matplotlib: figures without a display

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# One thread: small tensors gain nothing from more, and a forked worker of the DDP tests
# hangs in OpenMP when its parent has already run a parallel region.
torch.set_num_threads(1)
# The first backward pass of a process starts a thread for each kind of device that is known by then, after which it
# cannot be forked. There is none yet, but there would be after a first trace of the compiler.
torch.ones(1, requires_grad=True).sum().backward()

# HYPOTHESIS_PROFILE=long searches with fresh random examples; "ci" repeats the same short list each time.
settings.register_profile("ci", max_examples=25, derandomize=True, database=None, deadline=None)
settings.register_profile("long", max_examples=1000, database=None, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Give every test the same random state, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in its own empty folder, so that logs and files never land in the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    """Close what a test has drawn: matplotlib warns at twenty open figures."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout, for tests that read configs, docs or sources."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data sets, or skip the test when it is absent.

    The folder is ``data`` inside a folder named ``shared`` beside the checkout; the environment variable
    ``LIGHTNING_TOPK_SHARED`` names another folder in the place of ``shared``.
    """
    shared = Path(os.environ.get("LIGHTNING_TOPK_SHARED", ROOT.parent / "shared")).resolve()
    if not (shared / "data").is_dir():
        pytest.skip("needs the real data in a folder `shared/data` beside the checkout")
    return shared / "data"
