"""A prior inside any loss, and what holds for every loss around another one."""

import copy
import math

import pytest
import torch
from torch import nn

from lightning_topk import TopKClassifier
from lightning_topk.heads import NormalizedLinear
from lightning_topk.losses import (
    CrossEntropyLoss,
    ImbalancedNoisedTopKLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    NoisedTopKLoss,
    PriorAdjustedLoss,
    VSLoss,
    build_loss,
)

COUNTS = [500, 90, 7, 1]
NOISED = {"class_path": "NoisedTopKLoss", "init_args": {"k": 2, "epsilon": 0.5}}


def bound(loss, counts=COUNTS):
    loss.bind_class_counts(counts)
    return loss


def batch(rows: int = 9):
    return torch.randn(rows, 4, dtype=torch.float64), torch.randint(4, (rows,))


class TestPrior:
    @pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
    def test_around_cross_entropy_it_is_logit_adjustment(self, tau: float) -> None:
        logits, targets = batch()
        adjusted = bound(PriorAdjustedLoss("CrossEntropyLoss", prior_tau=tau, reduction="none"))
        expected = bound(LogitAdjustedLoss(tau, reduction="none"))
        torch.testing.assert_close(adjusted(logits, targets), expected(logits, targets), rtol=1e-6, atol=1e-6)

    def test_the_prior_is_taken_into_account_before_the_best_are_looked_for(self) -> None:
        loss = bound(
            PriorAdjustedLoss({"class_path": "NoisedTopKLoss", "init_args": {"k": 1, "epsilon": 0.0}}), [1, 1, 8]
        )
        leaf = torch.tensor([[3.0, 1.0, 2.5]], requires_grad=True)
        value = loss(leaf, torch.tensor([0]))
        value.backward()
        # Class 2 overtakes: 2.5 + log 8 > 3. The label is second best, and the plateau of the calibrated hinge shows.
        assert value.item() == pytest.approx(1.0)
        assert leaf.grad.tolist() == [[0.0, 0.0, 0.0]]
        assert NoisedTopKLoss(k=1, epsilon=0.0)(leaf, torch.tensor([0])).item() == pytest.approx(0.5)

    def test_by_margin_by_prior_or_both(self) -> None:
        logits, targets = batch()
        inner = {"class_path": "ImbalancedNoisedTopKLoss", "init_args": {"k": 2, "epsilon": 0.0, "max_margin": 1.0}}
        both = bound(PriorAdjustedLoss(inner, reduction="none"))
        shift = (torch.tensor(COUNTS).double() / sum(COUNTS)).log()
        by_hand = bound(build_loss(inner))
        by_hand.reduction = "none"
        torch.testing.assert_close(both(logits, targets), by_hand(logits + shift, targets), rtol=1e-6, atol=1e-6)
        assert both.loss.margins.tolist() == by_hand.margins.tolist()

    def test_strength_may_be_set(self) -> None:
        logits, targets = batch()
        loss = bound(PriorAdjustedLoss("CrossEntropyLoss"))
        loss.prior_tau = 0.0
        torch.testing.assert_close(loss(logits, targets), CrossEntropyLoss()(logits, targets))
        with pytest.raises(ValueError, match=r"`prior_tau` should be a finite number >= 0\. Found `prior_tau = -1"):
            loss.prior_tau = -1.0

    def test_shifted_cosines_are_no_ordinary_logits(self, recwarn: pytest.WarningsRecorder) -> None:
        """The inner loss sees cosines plus the shift, and warns of logits that are longer than that."""
        cosines, targets = NormalizedLinear(5, 4)(torch.randn(9, 5)), torch.randint(4, (9,))
        for inner in (LDAMLoss(), ImbalancedNoisedTopKLoss(k=1, scale=50.0)):
            loss = bound(PriorAdjustedLoss(inner, prior_tau=1 / 30))
            loss(cosines, targets)
            loss.prior_tau = 0.1
            loss(cosines, targets)
            assert not recwarn.list
            with pytest.warns(UserWarning, match="is meant for cosine logits"):
                loss(3 * cosines.sign(), targets)
                loss(3 * cosines.sign(), targets)
            recwarn.clear()

    def test_counts_are_needed_and_zeros_are_a_choice(self) -> None:
        with pytest.raises(RuntimeError, match=r"PriorAdjustedLoss should know the training counts.*Found none"):
            PriorAdjustedLoss("CrossEntropyLoss")(torch.zeros(1, 4), torch.tensor([0]))
        with pytest.raises(ValueError, match=r"Found none for 1 of 3 classes: 1 \(oak\)"):
            PriorAdjustedLoss("CrossEntropyLoss").bind_class_counts([2, 0, 1], names=["fir", "oak", "elm"])
        clamped = bound(PriorAdjustedLoss("CrossEntropyLoss", zero_counts="clamp"), [2, 0, 1])
        assert clamped.log_priors.exp().tolist() == pytest.approx([0.5, 0.25, 0.25])
        with pytest.raises(ValueError, match=r"Found none for 1 of 3 classes: 1\."):
            bound(PriorAdjustedLoss("LDAMLoss", zero_counts="clamp"), [2, 0, 1])
        with pytest.raises(
            ValueError, match=r"`log_priors` should have one entry per class, shape \[4\]\. Found \[3\]"
        ):
            clamped(torch.zeros(1, 4), torch.tensor([0]))


class TestWrapper:
    def test_weights_of_soft_and_hard_targets(self) -> None:
        logits, targets = batch()
        weight = [1.0, 2.0, 3.0, 0.0]
        one_hot = nn.functional.one_hot(targets, 4).double()
        wrapped = bound(PriorAdjustedLoss("CrossEntropyLoss", prior_tau=0.0, weight=weight))
        plain = CrossEntropyLoss(weight=weight)
        mixed = 0.3 * one_hot + 0.7 * one_hot.flip(0)
        for labels in (targets, one_hot, mixed):
            torch.testing.assert_close(wrapped(logits, labels), plain(logits, labels))

    def test_it_owns_what_it_wraps(self) -> None:
        inner = NoisedTopKLoss(k=2, reduction="sum", ignore_index=3)
        loss = bound(PriorAdjustedLoss(inner, ignore_index=1))
        assert loss.loss is inner
        assert (inner.reduction, inner.ignore_index) == ("none", 1)
        with pytest.raises(ValueError, match=r"should be given to PriorAdjustedLoss, `weight=\.\.\.`.* Found Focal"):
            PriorAdjustedLoss(build_loss({"class_path": "FocalLoss", "init_args": {"weight": [1.0, 2.0]}}))
        with pytest.raises(TypeError, match=r"should be a loss of lightning_topk\.losses\. Found CrossEntropyLoss\(\)"):
            PriorAdjustedLoss(nn.CrossEntropyLoss())

    def test_counts_of_the_inner_loss_are_taken_on(self) -> None:
        loss = PriorAdjustedLoss(bound(LDAMLoss(scale=1.0)))
        assert loss.class_counts.tolist() == COUNTS
        assert loss.log_priors is not None
        loss.bind_class_counts([1, 1, 1, 1])
        assert loss.loss.class_counts.tolist() == [1, 1, 1, 1]
        assert len(set(loss.loss.margins.tolist())) == 1

    def test_scalars_reach_the_inner_loss(self) -> None:
        nested = PriorAdjustedLoss(PriorAdjustedLoss(NOISED))
        assert nested.k == 2
        nested.epsilon = 0.25
        assert nested.epsilon == nested.loss.loss.epsilon == 0.25
        with pytest.raises(ValueError, match=r"`epsilon` should be a finite number >= 0"):
            nested.epsilon = -1.0
        nested.prior_tau = 0.3
        assert (nested.prior_tau, nested.loss.prior_tau) == (0.3, 1.0)
        with pytest.raises(AttributeError, match="nothing"):
            _ = nested.nothing

    def test_noise_keys_reach_the_inner_loss(self) -> None:
        logits, targets = batch()
        loss = bound(PriorAdjustedLoss({"class_path": "NoisedTopKLoss", "init_args": {"k": 2, "margin": 9.0}}))
        values = []
        for key in ((0, 1), (0, 1), (0, 2)):
            loss.seed_noise(*key)
            values.append(loss(logits, targets).item())
        assert values[0] == values[1] != values[2]

    def test_only_the_outer_counts_are_saved(self) -> None:
        loss = bound(PriorAdjustedLoss(PriorAdjustedLoss("LDAMLoss")))
        assert list(loss.state_dict()) == ["class_counts"]
        other = PriorAdjustedLoss(PriorAdjustedLoss("LDAMLoss"))
        other.load_state_dict(loss.state_dict())
        assert other.loss.loss.class_counts.tolist() == COUNTS
        assert other.loss.log_priors.tolist() == loss.log_priors.tolist()
        twin = copy.deepcopy(loss)
        twin.bind_class_counts([2, 2])
        assert loss.loss.loss.margins.shape == (4,)

    def test_it_moves_as_one(self) -> None:
        moved = bound(PriorAdjustedLoss("LDAMLoss")).to("meta")
        tensors = [getattr(part, name) for part in (moved, moved.loss) for name in part._constants]
        assert {tensor.device.type for tensor in tensors if tensor is not None} == {"meta"}
        assert moved.loss.margins.device.type == "meta"

    def test_spec_and_repr(self) -> None:
        loss = PriorAdjustedLoss(NOISED, prior_tau=0.5)
        assert loss.spec()["init_args"]["loss"]["class_path"] == "lightning_topk.losses.NoisedTopKLoss"
        assert loss.spec()["init_args"]["loss"]["init_args"]["epsilon"] == 0.5
        assert build_loss(loss.spec()).spec() == loss.spec()
        assert repr(loss) == (
            "PriorAdjustedLoss(loss=NoisedTopKLoss(k=2, epsilon=0.5, num_samples=5, reduction='none'), prior_tau=0.5)"
        )

    def test_k_of_the_module_reaches_the_inner_loss(self) -> None:
        spec = {"class_path": "PriorAdjustedLoss", "init_args": {"loss": "NoisedTopKLoss"}}
        assert build_loss(spec, k=3).loss.k == 3
        assert build_loss({"class_path": "PriorAdjustedLoss", "init_args": {"loss": spec}}, k=3).k == 3
        assert build_loss(spec).k == 5
        given = {"class_path": "PriorAdjustedLoss", "init_args": {"loss": NOISED}}
        assert build_loss(given, k=2).k == 2
        with pytest.raises(ValueError, match=r"`k` should be that of the loss\. Found `k = 3`"):
            build_loss(build_loss(given), k=3)
        assert build_loss({"class_path": "torch.nn.CrossEntropyLoss"}, k=3).reduction == "mean"

    def test_hyper_parameters_and_weights_only_loading(self, tmp_path) -> None:
        from runs import loader, make_trainer, vectors

        class Body(nn.Linear):
            num_features = 5

        spec = {"class_path": "PriorAdjustedLoss", "init_args": {"loss": {**NOISED}, "prior_tau": 0.5}}
        model = TopKClassifier(Body(6, 5), num_classes=8, loss=spec, k=2)
        trainer = make_trainer()
        trainer.fit(model, loader(vectors()), loader(vectors()))
        trainer.save_checkpoint(tmp_path / "run.ckpt")
        twin = TopKClassifier.load_from_checkpoint(tmp_path / "run.ckpt", backbone=Body(6, 5))
        assert repr(twin.topk_criterion) == repr(model.topk_criterion)
        assert twin.topk_criterion.loss.class_counts.tolist() == model.topk_criterion.class_counts.tolist()
        assert math.isfinite(trainer.callback_metrics["val_loss"])
        for other in ("CrossEntropyLoss", "ImbalancedNoisedTopKLoss"):
            stranger = TopKClassifier(Body(6, 5), num_classes=8, loss=other, k=2)
            make_trainer(max_epochs=2).fit(stranger, loader(vectors()), ckpt_path=tmp_path / "run.ckpt")


@pytest.mark.parametrize("inner", [VSLoss(), NoisedTopKLoss(k=2)])
def test_every_inner_loss_sees_the_shifted_logits(inner) -> None:
    seen = []
    inner.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    logits, targets = batch()
    bound(PriorAdjustedLoss(inner, prior_tau=2.0))(logits, targets)
    shift = 2 * (torch.tensor(COUNTS).double() / sum(COUNTS)).log()
    torch.testing.assert_close(seen[0], logits + shift, rtol=1e-6, atol=1e-6)
