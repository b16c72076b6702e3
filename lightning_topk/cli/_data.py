"""``lightning-topk data describe``: what a data set holds, before anything is trained on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_topk.cli._command import TopKCLI, own_failures
from lightning_topk.cli._parser import TopKArgumentParser
from lightning_topk.data import find_class_counts
from lightning_topk.data._base import LongTailDataModule
from lightning_topk.imbalance import check_counts, class_groups
from lightning_topk.plot import plot_class_counts
from lightning_topk.report import counts_summary, replacing
from lightning_topk.report._console import LABELS

_PROGRAM = "lightning-topk data"
_EXAMPLES = (
    f"{_PROGRAM} describe --data ImageFolderDataModule --data.root FOLDER",
    f"{_PROGRAM} describe --config configs/quickstart.yaml --figure counts.png",
)
_SUMMARY = """\
subcommands:
  describe   print classes, samples of each split, counts, imbalance factor and groups, and draw the counts
"""
_FORMATS = (".pdf", ".png", ".svg")


def main(args: Sequence[str]) -> None:
    """Run ``lightning-topk data``.

    Args:
        args: What follows ``data`` on the command line.
    """
    DataCLI(list(args))


class _Describer(Trainer):
    """Options of the trainer, which a configuration may have; none is used here."""

    def describe(
        self,
        model: Any = None,
        datamodule: Any = None,
        figure: str | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Print what a data set holds.

        Args:
            model: Not made.
            datamodule: The data.
            figure: File for the curve of class frequencies (.png, .svg or .pdf).
            ckpt_path: Without effect; saved configurations of runs have it.
            weights_only: Likewise.
        """


class DataCLI(TopKCLI):
    """Reads the configuration of a run, and makes its data alone."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(
            args,
            trainer_class=_Describer,
            parser_kwargs={
                "prog": _PROGRAM,
                "examples": _EXAMPLES,
                "summary": _SUMMARY,
                "describe": {"examples": _EXAMPLES},
            },
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"describe": {"model", "datamodule"}}

    def _set_seed(self) -> None: ...

    def _parse_ckpt_path(self) -> None: ...

    def before_instantiate_classes(self) -> None:
        options = self.config["describe"]
        if options.data is None:
            raise ValueError(
                "`lightning-topk data describe` should be given data, by `--data` or a configuration file: "
                "`--data GlyphsDataModule`, or `--config configs/quickstart.yaml`. Found none."
            )
        if options.figure is not None and Path(options.figure).suffix.lower() not in _FORMATS:
            law = f"`--figure` should name a file that ends in {', '.join(_FORMATS)}."
            raise ValueError(f"{law} Found `{options.figure}`.")

    def instantiate_classes(self) -> None:
        parser = TopKArgumentParser()
        parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
        parser.add_instantiator(lambda cls, *args, **kwargs: cls(*args, **kwargs), object, subclasses=True)
        with own_failures(parser):
            self.datamodule = parser.instantiate_classes(Namespace(data=self.config["describe"].data)).data

    def _run_subcommand(self, subcommand: str) -> None:
        names, counts, sizes = facts(self.datamodule)
        print("\n".join(description(self.datamodule, names, counts, sizes)))
        file = self.config["describe"].figure
        if file is not None:
            figure, _ = plot_class_counts(counts, title=type(self.datamodule).__name__)
            with replacing(file) as beside:
                figure.savefig(beside, format=Path(file).suffix[1:].lower())
            print(file)


def facts(data: LightningDataModule) -> tuple[list[str] | None, Any, dict[str, int]]:
    """Return names of the classes, training counts and number of samples of each split, without reading samples.

    Args:
        data: A data module of this package, or another: its data sets are made then, and asked for their labels.

    Raises:
        ValueError: Labels that cannot be told.
    """
    if isinstance(data, LongTailDataModule):
        return data.class_names, data.class_counts, data.split_sizes
    data.prepare_data()
    sizes, counts = {}, getattr(data, "class_counts", None)
    for split, stage in (("train", "fit"), ("val", "fit"), ("test", "test")):
        if not is_overridden(f"{split}_dataloader", data, LightningDataModule):
            continue
        data.setup(stage)
        dataset = getattr(getattr(data, f"{split}_dataloader")(), "dataset", None)
        if hasattr(dataset, "__len__"):
            sizes[split] = len(dataset)  # type: ignore[arg-type]
        if split == "train" and counts is None:
            counts = find_class_counts(dataset, getattr(data, "num_classes", None))
    if counts is None:
        raise ValueError(
            "A data module should have `class_counts`, or training data that keep one label per sample in `targets`, "
            f"`labels`, `samples` or another known place. Found neither in {type(data).__name__}."
        )
    return getattr(data, "class_names", None), check_counts(counts), sizes


def description(data: Any, names: list[str] | None, counts: Any, sizes: dict[str, int]) -> list[str]:
    """Return the lines that are printed."""
    summary = counts_summary(counts)
    shape = " x ".join(map(str, getattr(data, "input_shape", ())))
    factor = summary["imbalance_factor"]
    rows = {
        "data": type(data).__name__ + (f", {shape}" if shape else ""),
        "classes": f"{summary['classes']:,}",
        "samples": "   ".join(f"{split} {number:,}" for split, number in sizes.items()),
        "counts": f"largest {_count(counts, names, int(counts.argmax()))}   median {np.median(counts.numpy()):,.6g}   "
        f"smallest {_count(counts, names, int(counts.argmin()))}",
        "imbalance": "-, as a class has no training sample" if factor is None else f"{factor:,.6g}",
    }
    lines = [f"{name:<10} {text}".rstrip() for name, text in rows.items()]
    lines += ["", f"{'group':<16} {'classes':>7} {'training samples':>17}"]
    for group, mask in class_groups(counts).items():
        lines.append(f"{LABELS[group]:<16} {int(mask.sum()):>7,} {int(counts[mask].sum()):>17,}")
    return lines


def _count(counts: Any, names: list[str] | None, label: int) -> str:
    return f"{int(counts[label]):,} ({names[label] if names is not None else label})"
