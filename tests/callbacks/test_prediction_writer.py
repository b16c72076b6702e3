"""PredictionWriter: one row for each sample, right on any number of processes, and whole after any end."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Subset, TensorDataset

from commands import GLYPHS, QUIET, SMALL, command
from lightning_topk import TopKClassifier
from lightning_topk.callbacks import PredictionWriter
from lightning_topk.data import ImageFolderDataModule
from runs import CLASSES, Net, loader, make_trainer, vectors

NAMES = [f"class, {c}" for c in range(CLASSES)]


class Features(torch.nn.Identity):
    num_features = 6


def classifier(loss: str = "CrossEntropyLoss", **options: Any) -> TopKClassifier:
    torch.manual_seed(3)
    return TopKClassifier(Features(), num_classes=CLASSES, loss=loss, k=3, **options)


def named(rows: int = 61) -> TensorDataset:
    data = vectors(rows)
    data.classes = NAMES
    return data


def predict(*writers: Any, net: Any = None, data: Any = None, **options: Any) -> Any:
    trainer = make_trainer(*writers, default_root_dir=".", **options)
    trainer.predict(net or classifier(), data if data is not None else loader(named()), return_predictions=False)
    return trainer


def rows_of(path: Any = "predictions.csv") -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- what is written


@pytest.mark.parametrize(("loss", "score"), [("CrossEntropyLoss", "probability"), ("NoisedTopKLoss", "logit")])
def test_rows_agree_with_a_slow_loop(loss: str, score: str) -> None:
    net, data = classifier(loss), named()
    writer = PredictionWriter()
    predict(writer, net=net)
    assert writer.written == "predictions.csv"
    rows = rows_of()
    ends = [f"{name}_{place}" for place in (1, 2, 3) for name in ("class", "name", score)]
    assert list(rows[0]) == ["index", "target", "target_name", *ends]
    assert [int(row["index"]) for row in rows] == list(range(61))
    with torch.no_grad():
        for row, (features, label) in zip(rows, data, strict=True):
            logits = net(features[None])[0]
            scores = logits.softmax(0) if score == "probability" else logits
            order = sorted(range(CLASSES), key=lambda c: -float(logits[c]))[:3]
            assert [int(row[f"class_{place}"]) for place in (1, 2, 3)] == order
            assert [row[f"name_{place}"] for place in (1, 2, 3)] == [NAMES[c] for c in order]
            found = [float(row[f"{score}_{place}"]) for place in (1, 2, 3)]
            assert found == pytest.approx([float(scores[c]) for c in order], rel=1e-5)
            assert (int(row["target"]), row["target_name"]) == (int(label), NAMES[int(label)])


def test_the_scale_of_cosines_is_part_of_the_probabilities() -> None:
    net = classifier("LDAMLoss", normalized_head=True)
    net.topk_criterion.bind_class_counts([5] * CLASSES)
    predict(PredictionWriter(), net=net)
    with torch.no_grad():
        expected = (30.0 * net(vectors().tensors[0])).softmax(1).max(1).values
    assert [float(row["probability_1"]) for row in rows_of()] == pytest.approx(expected.tolist(), rel=1e-5)


def test_digits_tell_every_float32() -> None:
    writer = PredictionWriter()
    predict(writer, net=classifier("NoisedTopKLoss"))
    with torch.no_grad():
        (best,) = [classifier("NoisedTopKLoss")(vectors().tensors[0]).topk(3).values]
    read = torch.tensor([[float(row[f"logit_{place}"]) for place in (1, 2, 3)] for row in rows_of()])
    torch.testing.assert_close(read, best, rtol=1e-6, atol=0)
    assert max(len(row["logit_1"]) for row in rows_of()) <= 13


def test_logits_of_any_module() -> None:
    class Plain(Net):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self.net(batch[0])

    torch.manual_seed(0)
    net = Plain(loss="FocalLoss", k=2)
    predict(PredictionWriter(), net=net, data=DataLoader(vectors(), batch_size=8))
    with torch.no_grad():
        best = net.net(vectors().tensors[0]).softmax(1).topk(2)
    rows = rows_of()
    assert [[int(row["class_1"]), int(row["class_2"])] for row in rows] == best.indices.tolist()
    assert [float(row["probability_2"]) for row in rows] == pytest.approx(best.values[:, 1].tolist(), rel=1e-5)
    assert "name_1" not in rows[0]


def test_inputs_without_labels() -> None:
    class Inputs(TensorDataset):
        def __getitem__(self, index: Any) -> Any:
            return super().__getitem__(index)[0]

    predict(PredictionWriter(), data=loader(Inputs(vectors().tensors[0])))
    assert list(rows_of()[0])[:2] == ["index", "class_1"]


def test_paths_of_image_files(tmp_path: Path) -> None:
    for number in range(12):
        path = tmp_path / "images" / ("cat" if number % 2 else "dog, small") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 10), (20 * number, 0, 0)).save(path)
    data = ImageFolderDataModule(str(tmp_path / "images"), image_size=8, test_fraction=0.5, val_fraction=0.2)
    torch.manual_seed(0)
    net = TopKClassifier("small_convnet", num_classes=2, loss="CrossEntropyLoss", k=1)
    make_trainer(PredictionWriter("found.csv")).predict(net, datamodule=data)
    rows = rows_of("found.csv")
    assert len(rows) == len(data.dataset("test"))
    for row in rows:
        assert Path(row["path"]).exists()
        assert Path(row["path"]).parent.name == row["target_name"]
    subset = Subset(data.dataset("test"), [2, 0])
    make_trainer(PredictionWriter("two.csv")).predict(net, loader(subset))
    assert [row["path"] for row in rows_of("two.csv")] == [rows[2]["path"], rows[0]["path"]]


def test_several_dataloaders() -> None:
    predict(PredictionWriter(), data=[loader(named(20)), loader(named(10))])
    rows = rows_of()
    expected = [("0", str(i)) for i in range(20)] + [("1", str(i)) for i in range(10)]
    assert [(row["dataloader"], row["index"]) for row in rows] == expected


@pytest.mark.filterwarnings("ignore:Your `predict_dataloader`'s sampler has shuffling enabled")
def test_a_shuffled_loader_is_put_in_order() -> None:
    predict(PredictionWriter("ordered.csv"))
    predict(PredictionWriter("shuffled.csv"), data=loader(named(), shuffle=True))
    ordered, shuffled = rows_of("ordered.csv"), rows_of("shuffled.csv")
    assert [row["target"] for row in shuffled] == [row["target"] for row in ordered]
    assert [row["class_1"] for row in shuffled] == [row["class_1"] for row in ordered]


@pytest.mark.filterwarnings("ignore:Your `predict_dataloader`'s sampler has shuffling enabled")
@pytest.mark.filterwarnings("ignore:.*:FutureWarning")  # of pytorch_lightning itself
def test_the_other_namespace_knows_the_order_as_well() -> None:
    pytorch_lightning = pytest.importorskip("pytorch_lightning")

    class Other(pytorch_lightning.LightningModule):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return batch[0]

    trainer = make_trainer(PredictionWriter("other.csv"), namespace=pytorch_lightning)
    trainer.predict(Other(), loader(named(), shuffle=True), return_predictions=False)
    rows = rows_of("other.csv")
    assert [int(row["target"]) for row in rows] == named().tensors[1].tolist()
    assert [int(row["class_1"]) for row in rows] == named().tensors[0].argmax(1).tolist()


def test_rows_of_a_stream_are_counted() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            yield from vectors(20)

    predict(PredictionWriter(), data=DataLoader(Stream(), batch_size=8))
    assert [int(row["index"]) for row in rows_of()] == list(range(20))


def test_the_log_directory_is_the_usual_place() -> None:
    writer = PredictionWriter()
    predict(writer, logger=CSVLogger("logs", name="run", version=0))
    assert writer.written == "logs/run/version_0/predictions.csv"
    assert len(rows_of(writer.written)) == 61


def test_fast_dev_run_leaves_no_file(tmp_path: Path) -> None:
    writer = PredictionWriter()
    predict(writer, fast_dev_run=True)
    assert writer.written is None
    assert list(tmp_path.iterdir()) == []


def test_parquet_holds_the_same() -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    predict(PredictionWriter(), PredictionWriter(format="parquet"))
    table, rows = parquet.read_table("predictions.parquet").to_pydict(), rows_of()
    assert list(table) == list(rows[0])
    for name, values in table.items():
        kind = type(values[0])
        read = [kind(row[name]) for row in rows]
        assert values == (pytest.approx(read, rel=1e-6) if kind is float else read)


# --- several processes


@pytest.mark.timeout(60)
def test_two_ranks_write_what_one_does() -> None:
    predict(PredictionWriter("one.csv"))
    predict(PredictionWriter("two.csv"), ranks=2)
    one, two = rows_of("one.csv"), rows_of("two.csv")
    assert len(one) == 61
    scores = {f"probability_{place}" for place in (1, 2, 3)}
    for mine, other in zip(one, two, strict=True):
        assert {name: mine[name] for name in mine if name not in scores} == {
            name: other[name] for name in other if name not in scores
        }
        for name in scores:  # a batch of another size may be multiplied in another order
            assert float(mine[name]) == pytest.approx(float(other[name]), rel=1e-5)


@pytest.mark.timeout(60)
def test_samples_that_a_sampler_repeats_are_there_once() -> None:
    class Sharded(TopKClassifier):
        def predict_dataloader(self) -> Any:
            sampler = DistributedSampler(named(), num_replicas=2, rank=self.global_rank, shuffle=False)
            return loader(named(), sampler=sampler)

    torch.manual_seed(3)
    net = Sharded(Features(), num_classes=CLASSES, loss="CrossEntropyLoss", k=3)
    trainer = make_trainer(PredictionWriter("two.csv"), ranks=2, use_distributed_sampler=False)
    trainer.predict(net, return_predictions=False)
    predict(PredictionWriter("one.csv"))
    assert [row["class_1"] for row in rows_of("two.csv")] == [row["class_1"] for row in rows_of("one.csv")]
    assert [int(row["index"]) for row in rows_of("two.csv")] == list(range(61))


# --- interruption


@pytest.mark.timeout(60)
def test_a_killed_process_leaves_no_part_and_the_next_starts_over() -> None:
    class Slow(TopKClassifier):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            Path("begun").touch()
            time.sleep(0.5 if batch_idx else 0)
            return super().predict_step(batch, batch_idx)

    def run() -> None:
        signal.alarm(50)
        warnings.simplefilter("ignore")
        predict(PredictionWriter(), net=Slow(Features(), num_classes=CLASSES, loss="CrossEntropyLoss", k=3))

    predict(PredictionWriter(), data=loader(named(10)))
    before = Path("predictions.csv").read_bytes()
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    try:
        deadline = time.monotonic() + 40
        while not Path("begun").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join(20)
    finally:
        process.kill()
        process.join()
    assert Path("predictions.csv").read_bytes() == before
    assert {path.name for path in Path().iterdir()} == {"predictions.csv", "begun"}
    predict(PredictionWriter())
    assert len(rows_of()) == 61


def test_an_error_keeps_the_old_file() -> None:
    class Broken(TopKClassifier):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            if batch_idx == 3:
                raise RuntimeError("boom")
            return super().predict_step(batch, batch_idx)

    writer = PredictionWriter()
    predict(writer)
    before = Path("predictions.csv").read_bytes()
    with pytest.raises(RuntimeError, match="boom"):
        predict(writer, net=Broken(Features(), num_classes=CLASSES, loss="CrossEntropyLoss", k=3))
    assert Path("predictions.csv").read_bytes() == before
    predict(writer)  # what was seen before the error is forgotten
    assert Path("predictions.csv").read_bytes() == before


# --- bad input


def test_predictions_of_another_kind() -> None:
    class Other(Net):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return {"boxes": batch[0]}

    with pytest.raises(TypeError, match=r"should be a mapping with `classes`.* Found \['boxes'\] from Other"):
        predict(PredictionWriter(), net=Other())


def test_another_format() -> None:
    with pytest.raises(ValueError, match=r"`format` should be one of .*Found .*'xlsx'"):
        PredictionWriter(format="xlsx")


def test_parquet_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"need the package pyarrow: `pip install lightning-topk\[parquet\]`.*Found none"
    ):
        PredictionWriter(format="parquet")


def test_a_folder_that_cannot_be_made() -> None:
    Path("file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        predict(PredictionWriter("file/predictions.csv"))


# --- the command line


def test_the_command_line_can_build_it() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(PredictionWriter, "writer")
    writer = parser.instantiate_classes(parser.parse_args(["--writer.path=x.csv"])).writer
    assert repr(writer) == "PredictionWriter(path='x.csv', format='csv')"


def test_the_command_writes_the_table_beside_the_tensors() -> None:
    short = ("--trainer.accelerator", "cpu", "--trainer.limit_predict_batches", "2", *QUIET)
    printed = command("predict", *GLYPHS, *SMALL, *short)
    assert printed.status == 0
    folder = Path("logs/default/version_0")
    assert printed.out.splitlines()[-2:] == [str(folder / "predictions.csv"), str(folder / "predictions.pt")]
    rows, tensors = rows_of(folder / "predictions.csv"), torch.load(folder / "predictions.pt")
    assert [int(row["class_1"]) for row in rows] == tensors["classes"][:, 0].tolist()
    assert rows[0]["name_1"].startswith("latin")
    assert "logit_1" in rows[0]


def test_the_command_takes_another_writer() -> None:
    short = ("--trainer.accelerator", "cpu", "--trainer.limit_predict_batches", "1", *QUIET)
    own = ("--trainer.callbacks", "PredictionWriter", "--trainer.callbacks.path", "here.csv")
    printed = command("predict", *GLYPHS, *SMALL, *short, *own)
    folder = Path("logs/default/version_0")
    assert printed.out.splitlines()[-2:] == ["here.csv", str(folder / "predictions.pt")]
    assert Path("here.csv").exists()
    assert not (folder / "predictions.csv").exists()
