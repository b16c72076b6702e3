"""A comparison as it is read from its file, and what is said of mistakes in it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from compare.small import CROSS_ENTROPY, write
from lightning_topk.compare import Column, read_comparison
from lightning_topk.compare._plan import adjusted_name


def test_defaults() -> None:
    comparison = read_comparison(write(seeds=[4, 7], ks=[10, 1]))
    assert (comparison.seeds, comparison.tuning_seeds, comparison.ks) == ((4, 7), (4,), (1, 10))
    assert (comparison.select, comparison.checkpoint) == ("val_macro_top10", "last")
    assert comparison.args == ("--config", "base.yaml")


def test_settings_are_the_product_of_the_grid() -> None:
    column = Column("a", grid={"model.loss.k": [1, 2], "model.loss.epsilon": [0.1, 1.0]})
    assert column.settings() == [
        {"model.loss.k": 1, "model.loss.epsilon": 0.1},
        {"model.loss.k": 1, "model.loss.epsilon": 1.0},
        {"model.loss.k": 2, "model.loss.epsilon": 0.1},
        {"model.loss.k": 2, "model.loss.epsilon": 1.0},
    ]
    assert Column("a").settings() == [{}]


def test_options_come_from_the_general_to_the_particular() -> None:
    Path("folder").mkdir()
    Path("folder", "over.yaml").write_text("trainer: {max_epochs: 1}")
    entry = {"file": "over.yaml", **CROSS_ENTROPY, "config": {"model.k": 2, "data": {"init_args": {"seed": 1}}}}
    losses = {"a": entry, "b": "over.yaml"}
    path = write(Path("folder"), losses=losses, config={"trainer.callbacks+": [{"class_path": "RichProgressBar"}]})
    comparison = read_comparison(path, base=["mine.yaml"], last_args=["--trainer.max_epochs", "3"])
    assert comparison.args == (
        *("--config", str(Path("folder", "base.yaml")), "--config", "mine.yaml"),
        '--trainer.callbacks+=[{"class_path": "RichProgressBar"}]',
    )
    assert comparison.columns[0].args == (
        *("--config", str(Path("folder", "over.yaml"))),
        '--model.loss={"class_path": "CrossEntropyLoss"}',
        *("--model.k=2", "--config", json.dumps({"data": {"init_args": {"seed": 1}}})),
    )
    assert comparison.columns[1].args == ("--config", str(Path("folder", "over.yaml")))
    assert comparison.last_args == ("--trainer.max_epochs", "3")


def test_adjustment_of_all_columns_and_of_one() -> None:
    losses = {"a": CROSS_ENTROPY, "b": {**CROSS_ENTROPY, "posthoc_tau": []}, "c": {**CROSS_ENTROPY, "posthoc_tau": 2}}
    columns = read_comparison(write(losses=losses, posthoc_tau=[0.5, 1])).columns
    assert [column.posthoc_tau for column in columns] == [(0.5, 1.0), (), (2.0,)]
    assert adjusted_name("a") == "a + post-hoc"


def test_a_part_of_the_columns_and_other_seeds() -> None:
    comparison = read_comparison(write(tuning_seeds=[1]))
    assert [column.name for column in comparison.with_columns(["noised"]).columns] == ["noised"]
    assert (comparison.with_seeds([1, 2]).seeds, comparison.with_seeds([1, 2]).tuning_seeds) == ((1, 2), (1,))
    assert comparison.with_seeds([5, 6]).tuning_seeds == (5,)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({"seed": [0]}, ValueError, "A comparison should have keys among .* Found `seed`; near: seeds."),
        ({"losses": {}}, ValueError, "The key `losses` .* should have columns below it.* Found {}."),
        ({"losses": {"a": {"lose": 1}}}, ValueError, "Column `a` should have keys among .* Found `lose`; near: loss."),
        ({"losses": {"a": 3}}, TypeError, "Column `a` should be a mapping with keys among .* Found 3."),
        (
            {"losses": {"a": {"grid": {"b": [1]}}}},
            ValueError,
            "Column `a` should have a `file` of options, a `loss` or",
        ),
        (
            {"losses": {"a": {**CROSS_ENTROPY, "grid": {"model.k": 3}}}},
            ValueError,
            "Column `a` should have a grid of lists, each as `option: .values.`. Found {'model.k': 3}.",
        ),
        ({"losses": {"a": "no.yaml"}}, FileNotFoundError, "A configuration file should lie in .* Found no `no.yaml`."),
        ({"config": 3}, TypeError, "Options below `config` should be a mapping, .* Found 3."),
        ({"seeds": []}, ValueError, "Parameter `seeds` should be a list with at least one value. Found `seeds = ..`."),
        ({"seeds": [1, 1]}, ValueError, "Parameter `seeds` should hold each seed once. Found `seeds = .1, 1.`."),
        ({"seeds": [-1]}, ValueError, "Parameter `seeds` should be an integer in .* Found `seeds = -1`."),
        ({"ks": [0]}, ValueError, "Parameter `ks` should be an integer >= 1. Found `ks = 0`."),
        (
            {"select": "val_loss"},
            ValueError,
            "Parameter `select` should be an accuracy .* Found `select = 'val_loss'`.",
        ),
        ({"checkpoint": "first"}, ValueError, "Parameter `checkpoint` should be .* Found `checkpoint = 'first'`."),
        ({"posthoc_tau": ["a"]}, TypeError, "Parameter `posthoc_tau` should be .* Found"),
    ],
)
def test_mistakes(content: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_comparison(write(**content))


def test_files_that_are_no_comparison() -> None:
    with pytest.raises(FileNotFoundError, match="A comparison should be a YAML file. Found no file `none.yaml`."):
        read_comparison("none.yaml")
    Path("torn.yaml").write_text("losses: [")
    with pytest.raises(
        ValueError, match="A comparison should be a YAML file. `torn.yaml` cannot be read: while parsing"
    ):
        read_comparison("torn.yaml")
    Path("list.yaml").write_text("- 1")
    with pytest.raises(TypeError, match=re.escape("A comparison should be a mapping")):
        read_comparison("list.yaml")
    Path("empty.yaml").write_text("seeds: [1]")
    with pytest.raises(ValueError, match="A comparison should have the key `losses`. Found seeds."):
        read_comparison("empty.yaml")


def test_a_column_that_is_not_there() -> None:
    with pytest.raises(
        ValueError, match="`--losses` should name columns .*: cross entropy, noised. Found `nosed`; near"
    ):
        read_comparison(write()).with_columns(["nosed"])
