"""What is to be compared, as it stands in a YAML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import product
from typing import Any

from lightning_topk._checks import check_int


@dataclass(frozen=True)
class Column:
    """One loss of a comparison.

    Attributes:
        name: Its name in the table.
        args: Arguments of the command line that make it.
        grid: Values of options, of which the best combination is chosen on validation data.
        posthoc_tau: Strengths of the post-hoc logit adjustment, of which the best makes another column; none of it when
            empty.
    """

    name: str
    args: tuple[str, ...] = ()
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    posthoc_tau: tuple[float, ...] = ()

    def settings(self) -> list[dict[str, Any]]:
        """Return the combinations of the grid, each as values by option; one that is empty without a grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]


@dataclass(frozen=True)
class Comparison:
    """All that is said about a comparison, apart from where and how it runs.

    Attributes:
        columns: What is compared.
        args: Arguments for all columns, before theirs.
        last_args: Arguments for all columns, after theirs.
        seeds: Seeds of the runs of each column.
        tuning_seeds: Those by which settings are chosen.
        ks: The K of the table.
        group: Classes that the choice is made by: ``"macro"``, ``"micro"``, ``"many"``, ``"medium"`` or ``"few"``.
        k: The K that the choice is made by, and that of the groups in the table.
        checkpoint: ``"last"`` for the weights at the end of training, ``"best"`` for those of the best validation.
    """

    columns: tuple[Column, ...]
    args: tuple[str, ...] = ()
    last_args: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    tuning_seeds: tuple[int, ...] = (0,)
    ks: tuple[int, ...] = (1, 3, 5)
    group: str = "macro"
    k: int = 5
    checkpoint: str = "last"

    @property
    def select(self) -> str:
        """Name of the value that settings are chosen by."""
        return f"val_top{self.k}" if self.group == "micro" else f"val_{self.group}_top{self.k}"

    def with_columns(self, names: Sequence[str]) -> "Comparison":
        """Return the comparison of some of its columns, in their order here."""
        known = [column.name for column in self.columns]
        for name in names:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                raise ValueError(
                    f"`--losses` should name columns of the comparison: {', '.join(known)}. Found `{name}`"
                    + (f"; near: {near[0]}." if near else ".")
                )
        return replace(self, columns=tuple(column for column in self.columns if column.name in names))

    def with_seeds(self, seeds: Sequence[int]) -> "Comparison":
        """Return the comparison with other seeds; tuning seeds stay where they are among them."""
        chosen = check_seeds("seeds", list(seeds))
        kept = tuple(seed for seed in self.tuning_seeds if seed in chosen)
        return replace(self, seeds=chosen, tuning_seeds=kept or chosen[:1])


def adjusted_name(name: str) -> str:
    """Return the name of a column that is adjusted after training."""
    return f"{name} + post-hoc"


def check_list(name: str, value: Any) -> list[Any]:
    """Return ``value``, or raise when it is no list with something in it."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(
            f"Parameter `{name}` should be a list with at least one value. Found `{name} = {value!r:.80}`."
        )
    return list(value)


def check_seeds(name: str, value: Any) -> tuple[int, ...]:
    """Return seeds, or raise when they are none, or one is there twice."""
    seeds = tuple(check_int(name, each, 0, 2**32 - 1) for each in check_list(name, value))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"Parameter `{name}` should hold each seed once. Found `{name} = {list(seeds)}`.")
    return seeds
