"""The two lines of the README, applied to the module that its diff shows, and run."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_topk.losses import ImbalancedNoisedTopKLoss
from runs import CLASSES, loader, make_trainer, vectors


def side(diff: str, sign: str) -> dict[str, Any]:
    """Run one side of the diff as a program."""
    lines = [line[1:] for line in diff.splitlines() if line[:1] in (" ", sign, "")]
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    return names


def test_the_diff_of_the_readme(repository: Path) -> None:
    text = (repository / "README.md").read_text()
    diff = re.search(r"```diff\n(.*?)```", text, re.DOTALL)[1]
    changed = [line for line in diff.splitlines() if line.startswith("+")]
    assert sum("topk_loss" in line for line in changed) == 2
    for sign, metrics in (("-", 0), ("+", 5)):
        torch.manual_seed(0)
        model = side(diff, sign)["Plants"](nn.Linear(6, CLASSES))
        trainer = make_trainer()
        trainer.fit(model, loader(vectors(200)), loader(vectors()))
        assert "val_loss" in trainer.callback_metrics
        assert sum(name.startswith("val_") for name in trainer.callback_metrics) >= 1 + metrics
    assert isinstance(model.topk_criterion, ImbalancedNoisedTopKLoss)
    assert model.topk_criterion.class_counts.sum() == 200
    assert trainer.callback_metrics["val_macro_top5"] > 0
