"""Command line: ``lightning-topk {fit,validate,test,predict}``, driven by YAML files and options.

.. code-block:: console

    $ lightning-topk fit --config configs/quickstart.yaml
    $ lightning-topk fit --config configs/quickstart.yaml --config configs/loss/cross_entropy.yaml
    $ lightning-topk fit --config configs/quickstart.yaml --model.loss.k 3 --trainer.max_epochs 5
    $ lightning-topk validate --config logs/quickstart/version_0/config.yaml --ckpt_path last.ckpt
    $ lightning-topk data describe --config configs/quickstart.yaml --figure counts.png

It is a :class:`lightning.pytorch.cli.LightningCLI`: every option has the place in the YAML files that its name says, a
class is named by ``class_path`` with its arguments in ``init_args``, and what the command builds, a user can build in
three lines of Python. On top of that:

* The classes of this package, of torch and of Lightning are known by their bare names, as in
  ``--model.loss NoisedTopKLoss``. Any other class is named by its import path; files in the current folder can be
  imported.
* The model is :class:`~lightning_topk.TopKClassifier` unless ``--model`` names another LightningModule. Its number of
  classes and of channels are those of the data module, when that has ``num_classes`` and ``num_channels``.
* Files and options are merged from left to right, the last one wins. **A class that replaces another starts from its
  own defaults**; arguments that were given for the replaced class are dropped.
* ``--print_config`` prints what differs from the defaults, ready to be saved as a file; ``--print_config=full`` prints
  everything. Help on a class: ``lightning-topk fit --model.loss.help NoisedTopKLoss``.
* Runs are seeded with 0 unless ``--seed_everything`` says otherwise, and are kept in ``logs/<name>/version_<n>`` with
  the complete configuration in ``config.yaml``.
* ``data describe`` takes the same options and files, makes the data alone, and prints classes, counts and splits.
* ``fit --ckpt_path last`` goes on with the latest run below the logger's folder, or starts the first one. A run that
  gets SIGTERM writes ``last.ckpt`` where it can go on exactly, and ends with the status 143.
* A configuration is trusted like a program: it names the classes that are made, and files in the current folder can be
  among them. Data, class counts and checkpoints are not: they are read without running code, checkpoints with
  ``--weights_only true`` wherever they come from. ``--weights_only false`` is for those that you trust like a program.
* A user's mistake ends in a few lines on stderr and the exit status 2. With ``LIGHTNING_TOPK_DEBUG=1`` in the
  environment it ends in its traceback, as errors of other kinds always do.
"""

from lightning_topk.cli._command import TopKCLI
from lightning_topk.cli._main import main

__all__ = ["TopKCLI", "main"]
