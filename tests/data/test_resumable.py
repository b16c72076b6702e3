"""A resumed run sees the very batches, changed by the very random maps, that it would have seen."""

from __future__ import annotations

import ast
import hashlib
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from PIL import Image
from torch.utils.data import IterableDataset, TensorDataset

from lightning_topk.callbacks import SeedEveryBatch
from lightning_topk.data import GlyphsDataModule, ImageFolderDataModule, ResumableLoader, find_class_counts
from lightning_topk.data._resumable import Keyed, KeyedDataset, mixed
from runs import make_trainer

RECORDED: dict[str, Any] = {}


class Witness(pl.LightningModule):
    """Remembers every training batch, and is trained so that a wrong one changes the weights."""

    def __init__(self, size: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(dropout), torch.nn.Linear(size, 12))
        self.seen: dict[tuple[int, int], str] = {}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        digest = hashlib.sha256(batch[0].numpy().tobytes() + batch[1].numpy().tobytes()).hexdigest()[:12]
        self.seen[self.current_epoch, batch_idx] = digest
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        torch.rand(3)  # evaluation may draw what it likes

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class SaveEverywhere(pl.Callback):
    """Writes a checkpoint at every place where Lightning lets one be written."""

    def save(self, trainer: Any, place: str) -> None:
        if not trainer.sanity_checking:
            trainer.save_checkpoint(f"{place}-{trainer.global_step}-{trainer.fit_loop.total_batch_idx}.ckpt")

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.save(trainer, "batch-start")

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.save(trainer, "batch-end")

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        self.save(trainer, "validation-end")

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        self.save(trainer, "epoch-end")


def glyphs(**options: Any) -> GlyphsDataModule:
    small = {"num_classes": 12, "max_count": 4, "imbalance_factor": 2, "val_count": 1, "test_count": 1}  # 30 images
    return GlyphsDataModule(**{**small, "image_size": 8, "batch_size": 8, "augment": True, **options})


def run(ckpt_path: Any = None, *callbacks: Any, seed: int | None = 5, data: Any = None, **options: Any) -> Witness:
    if seed is not None:
        pl.seed_everything(seed, verbose=False)
    model = Witness()
    trainer = make_trainer(*callbacks, **{"max_epochs": 2, "num_sanity_val_steps": 1, **options})
    trainer.fit(model, datamodule=data or glyphs(), ckpt_path=ckpt_path)
    return model


def check_all(**options: Any) -> int:
    """Resume from every checkpoint of a run; return how many there were."""
    whole = run(None, SaveEverywhere(), **options)
    places = sorted(Path().glob("*.ckpt"))
    for place in places:
        resumed = run(place, **options)
        assert resumed.seen.items() <= whole.seen.items(), place
        expected = {at for at in whole.seen if at >= min(resumed.seen, default=(99, 0))}
        assert resumed.seen.keys() == expected, place
        assert torch.equal(resumed.net[2].weight, whole.net[2].weight), place
    return len(places)


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train dataloader shuffling")
@pytest.mark.parametrize(
    ("options", "places"),
    [
        pytest.param({}, 20, id="plain"),
        pytest.param({"val_check_interval": 0.5}, 22, id="validation in mid-epoch"),
        pytest.param({"limit_train_batches": 2}, 12, id="limited"),
        pytest.param({"max_epochs": -1, "max_steps": 6}, 15, id="by steps"),
        pytest.param({"overfit_batches": 2}, 12, id="overfitting"),
    ],
)
def test_every_checkpoint_resumes_exactly(options: dict[str, Any], places: int) -> None:
    assert check_all(**options) == places


def test_accumulated_gradients_resume_between_their_batches() -> None:
    class SaveAfterSteps(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if not trainer.fit_loop._should_accumulate():
                trainer.save_checkpoint(f"{trainer.global_step}.ckpt")

    whole = run(None, SaveAfterSteps(), accumulate_grad_batches=3)
    places = sorted(Path().glob("*.ckpt"))
    assert len(places) == 4  # batches 3 and 4 of two epochs
    for place in places:
        resumed = run(place, accumulate_grad_batches=3)
        assert resumed.seen.items() <= whole.seen.items()
        assert torch.equal(resumed.net[2].weight, whole.net[2].weight)


def test_a_run_without_a_seed_keeps_the_one_that_it_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    torch.manual_seed(100)
    whole = run(None, SaveEverywhere(), seed=None)
    for place in ("batch-end-2-1.ckpt", "epoch-end-4-3.ckpt"):
        torch.manual_seed(200)
        assert run(place, seed=None).seen.items() <= whole.seen.items()
    torch.manual_seed(200)
    assert run(None, seed=None).seen != whole.seen


def test_a_second_fit_follows_its_own_seed_and_the_order_follows_the_epoch() -> None:
    data = glyphs()
    first, second, again = (run(data=data, seed=seed) for seed in (1, 2, 1))
    assert first.seen == again.seen
    assert not set(first.seen.values()) & set(second.seen.values())
    assert len(set(first.seen.values())) == 8


@pytest.mark.timeout(120)
def test_workers_change_nothing(tmp_path: Path) -> None:
    alone = run(None, SaveEverywhere())
    helped = run(data=glyphs(num_workers=2))
    resumed = run("batch-end-6-5.ckpt", data=glyphs(num_workers=2))
    assert helped.seen == alone.seen
    assert resumed.seen == {at: alone.seen[at] for at in ((1, 2), (1, 3))}
    assert torch.equal(resumed.net[2].weight, alone.net[2].weight)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [0, 2])
def test_random_transforms_of_samples_follow_the_batch(tmp_path: Path, workers: int) -> None:
    for index in range(12):
        path = tmp_path / "images" / str(index % 3) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)

    def images() -> Any:
        return ImageFolderDataModule(str(tmp_path / "images"), image_size=8, batch_size=3, num_workers=workers)

    def train(ckpt_path: Any = None, *callbacks: Any) -> Witness:
        pl.seed_everything(1, verbose=False)
        model = Witness(size=3 * 64)
        settings = {"max_epochs": 2, "limit_val_batches": 0}
        make_trainer(*callbacks, **settings).fit(model, datamodule=images(), ckpt_path=ckpt_path)
        return model

    whole = train(None, SaveEverywhere())
    resumed = train("batch-end-1-0.ckpt")
    assert resumed.seen == {at: digest for at, digest in whole.seen.items() if at > (0, 0)}
    RECORDED.setdefault("images", whole.seen)
    assert whole.seen == RECORDED["images"]  # with and without workers


class Shards(Witness):
    """Writes what each rank has seen to a file, as the ranks are processes of their own."""

    def on_train_end(self) -> None:
        Path(f"{self.name}-{self.global_rank}").write_text(repr(sorted(self.seen.items())))


@pytest.mark.timeout(120)
def test_every_rank_goes_on_with_its_own_batches() -> None:
    def train(name: str, ckpt_path: Any = None, *callbacks: Any) -> list[dict[Any, str]]:
        pl.seed_everything(5, verbose=False)
        model = Shards(dropout=0.5)
        model.name = name
        trainer = make_trainer(SeedEveryBatch(), *callbacks, ranks=2, max_epochs=2)
        trainer.fit(model, datamodule=glyphs(batch_size=4), ckpt_path=ckpt_path)
        trainer.save_checkpoint(f"{name}.end") if ckpt_path is None else None
        return [dict(ast.literal_eval(Path(f"{name}-{rank}").read_text())) for rank in range(2)]

    class Last(pl.Callback):
        def on_train_end(self, trainer: Any, *_: Any) -> None:
            trainer.save_checkpoint(f"end-of-{trainer.lightning_module.name}")

    whole = train("whole", None, SaveEverywhere(), Last())
    assert not set(whole[0].values()) & set(whole[1].values())
    resumed = train("resumed", "batch-end-5-4.ckpt", Last())
    for rank in range(2):
        assert resumed[rank] == {at: digest for at, digest in whole[rank].items() if at > (1, 0)}
    weights = [torch.load(f"end-of-{name}", weights_only=True)["state_dict"] for name in ("whole", "resumed")]
    assert torch.equal(weights[0]["net.2.weight"], weights[1]["net.2.weight"])


def test_dropout_resumes_with_a_seed_for_every_batch() -> None:
    def train(*callbacks: Any, ckpt_path: Any = None) -> torch.Tensor:
        pl.seed_everything(5, verbose=False)
        model = Witness(dropout=0.5)
        make_trainer(*callbacks, max_epochs=2).fit(model, datamodule=glyphs(), ckpt_path=ckpt_path)
        return model.net[2].weight

    whole = train(SeedEveryBatch(), SaveEverywhere())
    for place in ("batch-end-3-2.ckpt", "batch-start-5-5.ckpt", "validation-end-4-3.ckpt", "epoch-end-4-3.ckpt"):
        assert torch.equal(train(SeedEveryBatch(), ckpt_path=place), whole), place
    train(SaveEverywhere())  # the same without the callback
    assert not torch.equal(train(ckpt_path="batch-end-3-2.ckpt"), train())


def test_the_loader_stands_by_itself() -> None:
    data = TensorDataset(torch.arange(40.0)[:, None].expand(40, 64), torch.arange(40) % 12)

    def train(*callbacks: Any, ckpt_path: Any = None) -> Witness:
        model = Witness()
        trainer = make_trainer(*callbacks, max_epochs=2)
        trainer.fit(model, ResumableLoader(data, 10, trainer=trainer, seed=9), ckpt_path=ckpt_path)
        return model

    whole = train(SaveEverywhere())
    assert train(ckpt_path="batch-end-6-5.ckpt").seen == {at: whole.seen[at] for at in ((1, 2), (1, 3))}


def test_a_short_loader_beside_a_longer_one_starts_over() -> None:
    class Two(Witness):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen[self.current_epoch, batch_idx] = str([part[0].flatten().tolist() for part in batch])
            return self.net(torch.zeros(1, 64)).sum()

    def train(*callbacks: Any, ckpt_path: Any = None) -> Witness:
        model = Two()
        trainer = make_trainer(*callbacks, max_epochs=2)
        loaders = [ResumableLoader(TensorDataset(torch.arange(n)), 10, trainer=trainer, seed=9) for n in (20, 50)]
        trainer.fit(model, CombinedLoader(loaders, "max_size_cycle"), ckpt_path=ckpt_path)
        return model

    whole = train(SaveEverywhere())
    for place in Path().glob("batch-end-*.ckpt"):
        assert train(ckpt_path=place).seen.items() <= whole.seen.items(), place


def test_outside_of_fit_a_pass_is_whole_and_random() -> None:
    loader = ResumableLoader(TensorDataset(torch.arange(30)), 10)
    torch.manual_seed(1)
    first, second = (torch.cat([batch for (batch,) in loader]) for _ in range(2))
    assert first.sort().values.equal(torch.arange(30))
    assert not first.equal(second)
    torch.manual_seed(1)
    assert torch.cat([batch for (batch,) in loader]).equal(first)


def test_labels_are_found_behind_the_keys() -> None:
    loader = ResumableLoader(TensorDataset(torch.zeros(5, 2), torch.tensor([0, 1, 1, 2, 2])))
    assert find_class_counts(loader.dataset).tolist() == [1, 2, 2]
    assert loader.dataset[3][1] == 2
    assert isinstance(ResumableLoader(loader.dataset).dataset.dataset, TensorDataset)


def test_a_keyed_batch_survives_the_way_to_a_worker_and_leaves_the_global_generator() -> None:
    class Noise(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.rand(())

    keyed = KeyedDataset(Noise())
    indices = pickle.loads(pickle.dumps(Keyed([2, 0], 7)))
    before = torch.get_rng_state()
    samples = keyed.__getitems__(indices)
    assert torch.get_rng_state().equal(before)
    assert samples.key == indices.key == 7
    assert samples == keyed.__getitems__(Keyed([1, 3], 7)) != keyed.__getitems__(Keyed([2, 0], 8))
    assert torch.rand(1, generator=samples.generator()).item() != samples[0].item()


def test_seeds_are_of_numbers_in_their_order() -> None:
    assert len({mixed(1, 2, 3), mixed(3, 2, 1), mixed(1, 2), mixed(2**64 - 1, 0)}) == 4


def test_a_stream_is_refused() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter(range(3))

    with pytest.raises(TypeError, match="`dataset` should have a length and deliver samples by index. Found Stream"):
        ResumableLoader(Stream())
    with pytest.raises(ValueError, match="`batch_size` should be an integer >= 1"):
        ResumableLoader(TensorDataset(torch.zeros(3)), 0)
