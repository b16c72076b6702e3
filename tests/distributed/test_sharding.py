"""Sharded parameters (FSDP2, gloo on the CPU) give what ddp gives; FSDP1 and its flag need a GPU and say so."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from lightning_utilities.core.imports import RequirementCache
from torch import Tensor, nn
from torch.distributed import fsdp

from cases import CASES, within
from ddp import run_ranks
from distributed.processes import in_order, joined, sharded, spread, values, weights, whole
from lightning_topk import TopKClassifier
from runs import CLASSES, Net, SaveAt, StatefulLoader, loader, make_trainer, seeded, vectors

if not hasattr(fsdp, "fully_shard"):
    pytest.skip("needs FSDP2, which is public from torch 2.6 on", allow_module_level=True)
pytestmark = pytest.mark.timeout(120)
# Before, the norm of the gradients of sharded parameters beside others was wrong: a loss had to be sharded as well.
CLIPS_MIXED_PARAMETERS = RequirementCache("torch>=2.9")
STK = {"class_path": "STkLoss", "init_args": {"loss": within("LDAMLoss", scale=1.0), "fraction": 0.5}}


class Trained(Net):
    """Its optimizer is given the network alone; the mixin adds the parameters of the loss."""

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.net.parameters(), lr=0.05)


class Sharded(Trained):
    """Shards its network, and leaves the loss as it is."""

    def configure_model(self) -> None:
        fsdp.fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


class WithLoss(Sharded):
    """Shards the loss, too."""

    def configure_model(self) -> None:
        super().configure_model()
        fsdp.fully_shard(self.topk_criterion, mesh=self.device_mesh["data_parallel"])


class Features(nn.Linear):
    num_features = 16

    def __init__(self) -> None:
        super().__init__(6, 16)


class Classifier(TopKClassifier):
    def __init__(self, loss: Any) -> None:
        super().__init__(Features(), num_classes=CLASSES, k=3, loss=loss, learning_rate=0.05)


class ShardedClassifier(Classifier):
    """Shards each of its layers."""

    def configure_model(self) -> None:
        for module in (self.backbone, self.head):
            fsdp.fully_shard(module, mesh=self.device_mesh["data_parallel"])


class ShardedAsAWhole(Classifier):
    """Shards itself, the parameters of the loss included."""

    def configure_model(self) -> None:
        fsdp.fully_shard(self, mesh=self.device_mesh["data_parallel"])


def test_every_loss_trains_as_under_ddp() -> None:
    cases = list({case.cls: case for case in CASES}.values())

    def work(rank: int) -> list[Any]:
        torch.set_default_dtype(torch.float64)  # in float32 a rounding error may choose other classes, now and then
        ends = []
        for case in cases:
            for kind, strategy in ((Trained, None), (Sharded, sharded(2))):
                model = seeded(kind, loss=case.cls(**case.arguments), log_loss=True)
                trainer = joined(rank, 2, strategy=strategy)
                trainer.fit(model, in_order(vectors(32), rank), loader(vectors(9)))
                ends.append((weights(model), values(trainer)))
        return ends

    first, second = run_ranks(work, 2, 100)
    assert len(first) == 2 * len(cases)
    for number, case in enumerate(cases):
        (ddp, logged), (fsdp, same) = first[2 * number : 2 * number + 2]
        assert spread((fsdp, second[2 * number + 1][0])) == 0, case
        assert spread((ddp, fsdp)) < 1e-9, case
        assert logged == pytest.approx(same, abs=1e-6), case


# With clipping, as with foreach optimizers, torch takes a plain tensor of one number for a replicated one, and says so.
@pytest.mark.filterwarnings("ignore:Found a non-scalar tensor with numel=1:UserWarning")
@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}], ids=["", "accumulation", "clipping"]
)
def test_the_lambda_of_an_aggregate_is_that_of_ddp(options: dict[str, Any]) -> None:
    """It is equal on both processes whether it is sharded, replicated, or sharded with the whole classifier."""
    kinds = {"module": (Trained, Sharded, WithLoss), "classifier": (Classifier, ShardedClassifier, ShardedAsAWhole)}
    if "gradient_clip_val" in options and not CLIPS_MIXED_PARAMETERS:
        kinds = {"module": (Trained, WithLoss), "classifier": (Classifier, ShardedAsAWhole)}

    def work(rank: int) -> dict[str, list[Any]]:
        torch.set_default_dtype(torch.float64)
        ends: dict[str, list[Any]] = {}
        for family, members in kinds.items():
            for kind in members:
                model = seeded(kind, loss=STK)
                strategy = None if kind in (Trained, Classifier) else sharded(2)
                joined(rank, 2, strategy=strategy, **options).fit(model, loader(vectors(61)))
                ends.setdefault(family, []).append((whole(model.topk_criterion.lambda_).item(), weights(model)))
        return ends

    first, second = run_ranks(work)
    for family in kinds:
        (expected, ddp), *others = first[family]
        assert expected != 0
        for (found, end), twin in zip(others, second[family][1:], strict=True):
            assert found == twin[0] == pytest.approx(expected, abs=1e-7)
            assert spread((end, ddp)) < 1e-7


def test_evaluation_is_that_of_one_process() -> None:
    def work(rank: int) -> dict[str, float]:
        trainer = joined(rank, 3, strategy=sharded(3))
        trainer.validate(seeded(ShardedClassifier, loss="NoisedTopKLoss"), loader(vectors(61)), verbose=False)
        return values(trainer)

    alone = make_trainer()
    alone.validate(seeded(Classifier, loss="NoisedTopKLoss"), loader(vectors(61)), verbose=False)
    for found in run_ranks(work, 3):
        assert found == pytest.approx(values(alone), abs=1e-6)


@pytest.mark.parametrize("distributed", [False, True], ids=["one file", "sharded files"])
def test_a_checkpoint_resumes_and_loads_elsewhere(distributed: bool, tmp_path: Path) -> None:
    """Weights, counts, margins and lambda are those of the run that was not stopped; one file loads without shards."""

    def work(rank: int) -> tuple[list[list[Tensor]], list[Tensor]]:
        def run(*callbacks: Any, **options: Any) -> Any:
            model = seeded(Sharded, loss=STK)
            strategy = sharded(2, save_distributed_checkpoint=distributed)
            trainer = joined(rank, 2, *callbacks, strategy=strategy, max_epochs=2)
            data = in_order(vectors(64), rank)
            trainer.fit(model, StatefulLoader(data.dataset, batch_size=8, sampler=data.sampler), **options)
            return model

        whole_run = run(SaveAt(3, tmp_path / "stopped.ckpt"))
        resumed = run(ckpt_path=tmp_path / "stopped.ckpt", weights_only=False)
        inner = resumed.topk_criterion.loss
        return [weights(whole_run), weights(resumed)], [inner.class_counts, inner.margins]

    ((first, resumed), (counts, margins)), _ = run_ranks(work)
    assert spread((first, resumed)) == 0
    assert counts.tolist() == torch.bincount(vectors(64).tensors[1], minlength=CLASSES).tolist()
    assert margins.isfinite().all()
    assert (tmp_path / "stopped.ckpt").is_dir() == distributed
    if not distributed:
        state = torch.load(tmp_path / "stopped.ckpt", weights_only=True)["state_dict"]
        model = Net(loss=STK)
        model.load_state_dict(state)
        assert torch.equal(model.topk_criterion.loss.class_counts, counts)


def test_processes_that_share_samples_draw_the_same_noise() -> None:
    """Two processes of tensor parallelism compute the loss of the same batch: other noise would tear them apart."""
    from lightning.pytorch.strategies import ModelParallelStrategy

    class Replicated(Net):
        def configure_model(self) -> None: ...

    def work(rank: int) -> list[Tensor]:
        model = seeded(Replicated)
        strategy = ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2)
        joined(rank, 2, strategy=strategy).fit(model, loader(vectors(64)))
        return weights(model)

    first, second = run_ranks(work)
    assert spread((first, second)) == 0


def test_what_needs_a_gpu_says_so() -> None:
    """The flag ``fsdp`` is refused by Lightning, and the class behind it by torch."""

    class Unchecked(FSDPStrategy):
        pass

    def work(rank: int) -> None:
        with pytest.raises(ValueError, match="The strategy `fsdp` requires a GPU accelerator"):
            joined(rank, 2, strategy="fsdp")
        with pytest.raises(RuntimeError, match="FSDP needs a non-CPU accelerator device"):
            joined(rank, 2, strategy=Unchecked()).fit(seeded(), loader(vectors()))
        with pytest.raises(RuntimeError, match="FSDP needs a non-CPU accelerator device"):
            fsdp.FullyShardedDataParallel(nn.Linear(4, 4))

    run_ranks(work)
