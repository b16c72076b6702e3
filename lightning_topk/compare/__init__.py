"""Which loss for my data? Several losses on the same data, with a choice of settings, in one table.

.. code-block:: console

    $ lightning-topk compare configs/compare/quick.yaml --output compared/quick

The command reads what is compared from a YAML file, makes all runs by the code of ``lightning-topk fit``, and writes
the table. What makes the columns comparable:

* Every column has the same splits of the data, and for each seed the same initial weights and the same batches in the
  same order; weights of parts that are not the same, such as a cosine head in the place of a linear one, differ.
* Settings are chosen by validation data alone, by the mean of ``select`` over the tuning seeds. The test set is
  evaluated after that, once for each run, and for what was chosen alone.
* The weights are those at the end of training, or with ``checkpoint: best`` those of the best validation.
* Intervals are those of Student's t over the seeds. Beside the best column those are marked that are not significantly
  worse by a paired t-test over the seeds, two-sided at 5 %. With one seed there is neither.

In Python, ``lightning_topk.cli.main(["compare", "comparison.yaml", "--output", "compared"])`` is the command, and
:func:`compare` what is below it: it takes its runs from any :class:`Launcher`.
"""

from lightning_topk.compare._compare import compare, dry_run
from lightning_topk.compare._console import print_table
from lightning_topk.compare._dry_run import PlannedColumn, plan_sentence, plan_table
from lightning_topk.compare._launcher import Launcher, Parts
from lightning_topk.compare._plan import Column, Comparison
from lightning_topk.compare._ray import RayWorkers
from lightning_topk.compare._read import read_comparison
from lightning_topk.compare._table import Cell, ComparisonTable

__all__ = [
    "Cell",
    "Column",
    "Comparison",
    "ComparisonTable",
    "Launcher",
    "Parts",
    "PlannedColumn",
    "RayWorkers",
    "compare",
    "dry_run",
    "plan_sentence",
    "plan_table",
    "print_table",
    "read_comparison",
]
