"""LightningCLI with the defaults, checks and files of this package."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_topk._checks import check_int
from lightning_topk.callbacks import PredictionWriter, TopKReport
from lightning_topk.cli._checkpoints import check_checkpoint
from lightning_topk.cli._errors import add_fact
from lightning_topk.cli._last_run import EVALUATION, folder_of_runs, last_checkpoint, last_run, logger_options
from lightning_topk.cli._model_options import model_options, option_values, set_options
from lightning_topk.cli._parser import ConfigFile, TopKArgumentParser, own_defaults
from lightning_topk.cli._trainer_options import check_trainer_options
from lightning_topk.data import ArrayDataModule, GlyphsDataModule
from lightning_topk.durable import AtomicCheckpointIO, SafeStop
from lightning_topk.module import TopKClassifier
from lightning_topk.report import replacing, write_atomically

_PROGRAM = "lightning-topk"
_HEADER = f"{_PROGRAM}=={sys.modules['lightning_topk'].__version__}"
_EXAMPLES = {
    "fit": [
        f"{_PROGRAM} fit --config configs/quickstart.yaml",
        f"{_PROGRAM} fit --config configs/quickstart.yaml --config configs/loss/cross_entropy.yaml",
        f"{_PROGRAM} fit --data GlyphsDataModule --model.loss NoisedTopKLoss --model.loss.k 3 --print_config",
        f"{_PROGRAM} fit --model.help TopKClassifier",
    ],
} | {
    name: [f"{_PROGRAM} {name} --config logs/quickstart/version_0/config.yaml --ckpt_path CHECKPOINT"]
    for name in ("validate", "test", "predict")
}

_SUMMARY = f"""\
subcommands:
  fit        train, and validate after each epoch
  validate   evaluate a checkpoint on the validation set
  test       evaluate a checkpoint on the test set
  predict    write the k best classes of each test sample to a file
  compare    train several losses on the same data, and tabulate what they reach
  data       print the classes, counts and splits of a data set: `{_PROGRAM} data describe --help`

options:
  -h, --help  print this, or after a subcommand its options
  --version   print the version

help on a class:  {_PROGRAM} fit --model.loss.help NoisedTopKLoss
tracebacks:       LIGHTNING_TOPK_DEBUG=1 {_PROGRAM} ...
"""


class SaveConfig(SaveConfigCallback):
    """Save the configuration in the folder of the run, in one step; without a logger there is no such folder."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.already_saved or not trainer.loggers:
            return
        folder = Path(str(trainer.log_dir))  # asks rank 0
        if trainer.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
            text = self.parser.dump(self.config, skip_none=False)
            write_atomically(folder / self.config_filename, text if stage == "fit" else f"{EVALUATION}\n{text}")
        self.already_saved = True


class TopKCLI(LightningCLI):
    """LightningCLI with the defaults of this package; see :mod:`lightning_topk.cli`.

    Args:
        args: Arguments in place of those of the process.
        **kwargs: See :class:`lightning.pytorch.cli.LightningCLI`.
    """

    def __init__(self, args: ArgsType = None, **kwargs: Any) -> None:
        options: dict[str, Any] = {
            "model_class": LightningModule,
            "subclass_mode_model": True,
            "seed_everything_default": 0,
            "trainer_defaults": {
                "logger": {"class_path": "ResumableCSVLogger", "init_args": {"save_dir": "logs", "name": "default"}}
            },
            "save_config_callback": SaveConfig,
            "parser_class": TopKArgumentParser,
            "parser_kwargs": {
                "prog": _PROGRAM,
                "version": _HEADER.partition("==")[2],
                "examples": _EXAMPLES["fit"][:2],
                "summary": _SUMMARY if kwargs.get("run", True) else None,
                **{name: {"examples": _EXAMPLES.get(name, ())} for name in self.subcommands()},
            },
        }
        super().__init__(args=args, **{**options, **kwargs})

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = self.parser_class(**{"dump_header": [_HEADER], **kwargs})
        parser.add_argument("-c", "--config", action=ConfigFile, help="Path to a configuration file in YAML format.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults({"model": {"class_path": "lightning_topk.TopKClassifier"}})
        parser.link_arguments(
            "data", "model.init_args.num_classes", compute_fn=self.num_classes_of, apply_on="instantiate"
        )
        parser.link_arguments("data.num_channels", "model.init_args.in_channels", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        with own_defaults():
            if isinstance(args, dict | Namespace):
                self._model_options: list[str] = []
                self.config = parser.parse_object(args)
            else:
                given = [_print_config(arg) for arg in (sys.argv[1:] if args is None else args)]
                self._model_options = model_options(given)
                self.config = parser.parse_args(given)
        seed = self.config.get(self.config.get("subcommand", ""), self.config).get("seed_everything")
        if seed is not None and not isinstance(seed, bool):
            check_int("seed_everything", seed, 0, 2**32 - 1)

    def _parse_ckpt_path(self) -> None:
        config = self.config.get(self.config.get("subcommand", ""), self.config)
        path = config.get("ckpt_path")
        if path and Path(path).is_file():
            if config.get("weights_only") is False:
                return  # what is read here are values; the configuration has to name the model of anything else
            check_checkpoint(path)
        # Lightning lets the checkpoint's hyper-parameters win, in silence, also over what was asked for here and now.
        values = option_values(config.get("model"), self._model_options)
        super()._parse_ckpt_path()
        set_options(self.config.get(self.config.get("subcommand", ""), self.config).get("model"), values)

    def before_instantiate_classes(self) -> None:
        if self.subcommand and self._get(self.config, "weights_only") is None:
            # Lightning leaves it to torch, which before 2.6 ran the code in a checkpoint, and runs the code in one
            # that comes from the network.
            self.config[self.subcommand].weights_only = True
        if self.subcommand != "fit":
            # What served the training, such as a scheduler, is not missed in evaluation.
            warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks used to create")
        model = self._get(self.config, "model")
        if self._get(self.config, "data") is None and locate(model.class_path) is TopKClassifier:
            raise ValueError(
                "TopKClassifier should be given data, by `--data` or a configuration file: "
                "`--data GlyphsDataModule`, or `--config configs/quickstart.yaml`. Found none."
            )

    def num_classes_of(self, data: Any) -> int | None:
        """Return the number of classes for a model that takes one: that of the data, or else what was given."""
        model = self._get(self.config, "model")
        given = model.get("init_args", Namespace()).get("num_classes")
        linked = getattr(data, "num_classes", None)
        if given is not None and linked is not None and given != linked:
            raise ValueError(
                f"The number of classes of `--model.num_classes` or of the checkpoint should be that of the data, "
                f"{linked}. Found {given}."
            )
        if given is None and linked is None and locate(model.class_path) is TopKClassifier:
            raise ValueError(
                "The number of classes should be an attribute `num_classes` of the data module, or be given by "
                f"`--model.num_classes`. Found neither in {type(data).__name__}."
            )
        return given if linked is None else linked

    def instantiate_classes(self) -> None:
        self.parser.add_instantiator(_construct, object, subclasses=True)
        with own_failures(self.parser), self._last_run():
            super().instantiate_classes()
        if isinstance(self.datamodule, ArrayDataModule | GlyphsDataModule):
            # Their samples lie in memory: there is nothing that worker processes could do sooner.
            warnings.filterwarnings("ignore", "The '.*' does not have many workers")

    def instantiate_trainer(self, **options: Any) -> Trainer:
        check_trainer_options(vars(self._get(self.config, "trainer")))
        try:
            trainer = super().instantiate_trainer(**options)
        except Exception as error:
            add_fact(error, vars(self._get(self.config, "trainer")))
            raise
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # no other was asked for
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, SafeStop) for callback in callbacks):
            callbacks.insert(0, SafeStop())
        return trainer

    @contextmanager
    def _last_run(self) -> Iterator[None]:
        """Make ``--ckpt_path last`` mean the latest run of the folder, in which a ``fit`` goes on."""
        trainer, config = self._get(self.config, "trainer"), self.config.get(str(self.subcommand), self.config)
        if config.get("ckpt_path") != "last":
            yield
            return
        number = last_run(trainer)
        checkpoint = None if number is None else last_checkpoint(trainer, number)
        if self.subcommand != "fit":
            if checkpoint is not None:
                config.ckpt_path = str(checkpoint)
            elif (folder := folder_of_runs(trainer)) is not None:
                raise FileNotFoundError(
                    f"`--ckpt_path last` should find a `last.ckpt` in the folder of the latest training run below "
                    f"`{folder}`. Found {'no run' if number is None else f'none in `version_{number}`'}."
                )
            yield
            return
        # The folder of a run that goes on is not empty.
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        if number is None:
            yield
            return
        options = logger_options(trainer)
        options.version = number
        try:
            yield
        finally:
            options.version = None  # what is saved as the configuration names no run

    def predict(self, **options: Any) -> None:
        """Predict, and save what the model returned as ``predictions.pt`` in the log directory.

        The k best classes of a :class:`~lightning_topk.TopKClassifier` are in ``predictions.csv`` as well, unless a
        :class:`~lightning_topk.callbacks.PredictionWriter` was given that writes them elsewhere.
        """
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        written = any(isinstance(callback, PredictionWriter) for callback in callbacks)
        if isinstance(self.model, TopKClassifier) and not written:
            callbacks.append(PredictionWriter())
        batches = self.trainer.predict(**options)
        for callback in callbacks:
            if isinstance(callback, PredictionWriter) and callback.written is not None:
                print(callback.written)
        folder = self.trainer.log_dir
        if not batches or folder is None:
            return
        rank = f"_{self.trainer.global_rank}" if self.trainer.world_size > 1 else ""
        path = Path(folder, f"predictions{rank}.pt")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            torch.save(_joined(batches), beside)
        print(path)

    def after_fit(self) -> None:
        """Print the log directory as the last line, unless :class:`TopKReport` has done so."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        reported = any(isinstance(callback, TopKReport) for callback in callbacks)
        if not reported and self.trainer.is_global_zero and self.trainer.loggers:
            print(self.trainer.log_dir)

    after_validate = after_test = after_fit


@contextmanager
def own_failures(parser: Any) -> Iterator[None]:
    """Raise what a constructor has raised in the place of what jsonargparse makes of it."""
    try:
        yield
    except Exception as error:
        failures = parser.failures
        if failures and failures[-1] is not error and str(failures[-1]) in str(error):
            raise failures[-1] from failures[-1].__cause__
        raise


def _construct(cls: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return cls(*args, **kwargs)


def _print_config(arg: str) -> str:
    """Make the short form of ``--print_config`` the default."""
    return {"--print_config": "--print_config=skip_default", "--print_config=full": "--print_config="}.get(arg, arg)


def _joined(batches: list[Any]) -> Any:
    """Join batches that are mappings of tensors along the rows; leave others as they are."""
    if not all(isinstance(batch, dict) and batch.keys() == batches[0].keys() for batch in batches):
        return batches
    if not all(isinstance(value, torch.Tensor) and value.ndim for batch in batches for value in batch.values()):
        return batches
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
