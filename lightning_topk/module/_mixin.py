"""The mixin that gives any LightningModule a top-K loss."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_topk._checks import check_classes_exceed_k, check_float, check_int, check_per_class
from lightning_topk._evaluation import Evaluation
from lightning_topk._reduce import counted_weight
from lightning_topk.callbacks import ClassFrequencies
from lightning_topk.callbacks._mixin_hooks import MixinHooks
from lightning_topk.imbalance import log_priors
from lightning_topk.losses import TopKLoss, build_loss


class TopKMixin:
    """Give a LightningModule a top-K loss, class counts, and logged top-K metrics.

    Put it first among the bases and compute the loss by ``self.topk_loss(logits, targets)`` in ``training_step``,
    ``validation_step`` and ``test_step``. Then

    * the training counts of the classes are found before training and bound to the loss;
    * in validation and test, macro and micro top-K accuracy, and macro top-K over the many-, medium- and few-shot
      classes, are logged as ``val_macro_top5``, ``val_top5``, ``val_few_top5`` and so on. Under DDP they are exact:
      samples that a DistributedSampler repeats are left out;
    * noise differs between ranks and steps, and a resumed run draws the noise that it would have drawn;
    * trainable parameters of the loss, such as the threshold of :class:`~lightning_topk.losses.STkLoss`, join the
      optimizer when it was given others alone, and have no weight decay.

    Options are given as class keywords, ``class Net(TopKMixin, LightningModule, loss="NoisedTopKLoss", k=3)``, or to
    ``super().__init__(loss=..., k=...)``; the latter win.

    Args:
        loss: The loss: a name from :mod:`lightning_topk.losses`, ``{"class_path": ..., "init_args": {...}}``, a loss
            class, or a loss object. :class:`~lightning_topk.losses.ImbalancedNoisedTopKLoss` when not given.
        k: Number of guesses; that of the loss, or 5, when not given.
        num_classes: Number of classes C; found from the logits when not given.
        class_counts: Training samples per class: a list or tensor, a JSON or CSV file, ``None`` to find them in the
            training data, or ``False`` to do without.
        metrics: Values of K to log, ``True`` for 1, 3, 5 and k as far as they are at most k, or ``False``.
        log_loss: Whether the mean loss of evaluation is logged as ``val_loss`` and ``test_loss``, exact under DDP.
        posthoc_tau: Strength tau of the post-hoc logit adjustment: metrics, and what :meth:`topk_scores` returns, are
            made of the logits minus tau times the log-priors of the training data
            (:func:`~lightning_topk.imbalance.posthoc_logit_adjustment`). The loss is not changed.

    Raises:
        TypeError: The mixin stands behind the LightningModule among the bases.

    Example:
        >>> import lightning as L
        >>> class Net(TopKMixin, L.LightningModule, loss="CrossEntropyLoss", metrics=[1, 10]):
        ...     pass
        >>> Net().topk_ks
        (1, 10)
    """

    _topk_options: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        names = ("loss", "k", "num_classes", "class_counts", "metrics", "log_loss", "posthoc_tau")
        own = {name: options.pop(name) for name in names if name in options}
        super().__init_subclass__(**options)
        cls._topk_options = {**cls._topk_options, **own}
        for base in cls.__mro__[: cls.__mro__.index(TopKMixin)]:
            if issubclass(base, nn.Module) and not issubclass(base, TopKMixin):
                raise TypeError(
                    "TopKMixin should stand before the LightningModule among the bases, or its hooks are passed over. "
                    f"Found class {cls.__name__}({', '.join(b.__name__ for b in cls.__bases__)})."
                )
        if "configure_callbacks" in cls.__dict__:
            # A method of the user's that does not call super() would otherwise hide that of the mixin.
            configure = cls.__dict__["configure_callbacks"]
            cls.configure_callbacks = wraps(configure)(  # type: ignore[method-assign]
                lambda self: _with_topk_callbacks(partial(configure, self), self)
            )

    def __init__(
        self,
        *args: Any,
        loss: TopKLoss | nn.Module | type[TopKLoss] | Mapping[str, Any] | str | None = None,
        k: int | None = None,
        num_classes: int | None = None,
        class_counts: Any = None,
        metrics: bool | Sequence[int] | None = None,
        log_loss: bool | None = None,
        posthoc_tau: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        given = {"loss": loss, "k": k, "num_classes": num_classes, "class_counts": class_counts}
        given |= {"metrics": metrics, "log_loss": log_loss, "posthoc_tau": posthoc_tau}
        options = {**self._topk_options, **{name: value for name, value in given.items() if value is not None}}
        self.topk_criterion = build_loss(options.get("loss", "ImbalancedNoisedTopKLoss"), k=options.get("k"))
        self.topk_k = check_int("k", options.get("k", getattr(self.topk_criterion, "k", 5)), 1)
        self.topk_ks = _metric_ks(options.get("metrics", True), self.topk_k)
        self.topk_num_classes: int | None = options.get("num_classes")
        if self.topk_num_classes is not None:
            check_int("num_classes", self.topk_num_classes, 2)
            if hasattr(self.topk_criterion, "k"):
                check_classes_exceed_k(self.topk_k, self.topk_num_classes)
        # Counts that a loss object brings along were given by hand, and are not looked for in the data.
        bound = getattr(self.topk_criterion, "class_counts", None)
        self.topk_class_counts = options.get("class_counts", None if bound is None else bound.tolist())
        self.topk_log_loss = bool(options.get("log_loss", False))
        tau = options.get("posthoc_tau")
        self.topk_posthoc_tau = None if tau is None else check_float("posthoc_tau", tau)
        self.topk_evaluations = nn.ModuleDict()
        self._topk_active: str | None = None
        self._topk_priors: tuple[Tensor, Tensor] | None = None
        if not isinstance(self.topk_criterion, TopKLoss):
            self.register_load_state_dict_pre_hook(_pass_over_other_losses)  # type: ignore[attr-defined]

    @torch.compiler.disable  # schedules change the loss between steps, and its own ways are fast
    def topk_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch; in validation and test also count it for the metrics.

        When it is called several times for one batch of evaluation, the first call is the one that is counted. In a
        module under ``torch.compile`` it is called as it is, as a schedule's every epsilon would be compiled anew.

        Args:
            logits: Scores, shape [N, ..., C].
            targets: Class indices [N, ...], or soft labels [N, ..., C], whose largest entry is the label for metrics.

        Returns:
            The loss under its own reduction. In evaluation under DDP over the rows that are no padding.
        """
        if self._topk_active is None:
            return self.topk_criterion(logits, targets)
        evaluation = self._topk_evaluation(self._topk_active)
        logits, targets = evaluation.real(logits), evaluation.real(targets)
        loss = self.topk_criterion(logits, targets)
        weight = counted_weight(
            targets,
            weight=getattr(self.topk_criterion, "weight", None),
            ignore_index=getattr(self.topk_criterion, "ignore_index", -100),
        )
        total = loss.detach() if loss.ndim == 0 else loss.detach().sum()
        mean = total if getattr(self.topk_criterion, "reduction", "mean") == "mean" else total / weight.clamp(min=1e-12)
        evaluation.update(self.topk_scores(logits.detach()), targets, mean, weight)
        return loss

    def topk_scores(self, logits: Tensor) -> Tensor:
        """Return the scores that metrics and predictions are made of: the logits, adjusted if ``posthoc_tau`` is given.

        Args:
            logits: Scores, shape [..., C].

        Raises:
            RuntimeError: An adjustment without class counts.
        """
        if self.topk_posthoc_tau is None:
            return logits
        counts = getattr(self.topk_criterion, "class_counts", None)
        if counts is None:
            raise RuntimeError(
                "`posthoc_tau` needs a loss of this package that knows the training counts of the classes. Found none "
                f"in {type(self.topk_criterion).__name__}: load the checkpoint of a run that has counted them, or call "
                "`topk_criterion.bind_class_counts(counts)`."
            )
        check_per_class("class_counts", counts, logits)
        if self._topk_priors is None or self._topk_priors[0] is not counts:
            # Kept, as to read the counts is to wait for the device.
            self._topk_priors = counts, log_priors(counts, zero="clamp").to(counts.device)
        return logits - self.topk_posthoc_tau * self._topk_priors[1]

    def configure_callbacks(self) -> Sequence[Any]:
        """Add the callbacks of the mixin to those of the module."""
        return _with_topk_callbacks(super().configure_callbacks, self)  # type: ignore[misc]

    def topk_begin(self, stage: str, loaders: int) -> None:
        """Make ready for an epoch of evaluation over a number of dataloaders."""
        for loader in range(loaders if self.topk_ks or self.topk_log_loss else 0):
            self._topk_evaluation(f"{stage}_{loader}").reset()

    def topk_begin_batch(self, stage: str, loader: int, rows: tuple[int, int] | None) -> None:
        """Announce a batch of evaluation; ``rows`` as in :meth:`Evaluation.begin_batch`."""
        self._topk_active = f"{stage}_{loader}" if self.topk_ks or self.topk_log_loss else None
        if self._topk_active is not None:
            self._topk_evaluation(self._topk_active).begin_batch(rows)

    def topk_end(self, stage: str, *, log: bool = True) -> None:
        """Log the metrics of an epoch of evaluation that has ended."""
        self._topk_active = None
        keys = [key for key in self.topk_evaluations if key.startswith(f"{stage}_")]
        for key in keys if log else []:
            evaluation = self._topk_evaluation(key)
            counts = getattr(self.topk_criterion, "class_counts", None)
            values = evaluation.scores(stage, self.topk_ks, self.topk_k, counts, with_loss=self.topk_log_loss)
            for name, value in values.items():
                # All ranks hold the same value; saying so to Lightning costs one reduction of a scalar.
                self.log(  # type: ignore[attr-defined]
                    name if len(keys) == 1 else f"{name}/dataloader_idx_{key.rpartition('_')[2]}",
                    value.float(),
                    prog_bar=name in (f"{stage}_macro_top{self.topk_k}", f"{stage}_loss"),
                    sync_dist=True,
                    add_dataloader_idx=False,
                )

    def topk_interrupted(self) -> None:
        """Forget a batch of evaluation that was not ended: what comes next may be training."""
        self._topk_active = None

    def _topk_evaluation(self, key: str) -> Evaluation:
        if key not in self.topk_evaluations:
            ignore_index = getattr(self.topk_criterion, "ignore_index", None)
            evaluation = Evaluation(self.topk_num_classes, max(self.topk_ks, default=1), ignore_index)
            self.topk_evaluations[key] = evaluation.to(self.device)  # type: ignore[attr-defined]
        return self.topk_evaluations[key]  # type: ignore[return-value]


def _pass_over_other_losses(module: Any, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let a loss of others load from checkpoints of any loss, as :class:`~lightning_topk.losses.TopKLoss` does."""
    prefix += "topk_criterion."
    own = {prefix + name: value for name, value in module.topk_criterion.state_dict().items()}
    for name in [name for name in state_dict if name.startswith(prefix) and name not in own]:
        del state_dict[name]
    for name, value in own.items():
        state_dict.setdefault(name, value)


def _metric_ks(metrics: bool | Sequence[int], k: int) -> tuple[int, ...]:
    if isinstance(metrics, bool):
        return tuple(sorted({each for each in (1, 3, 5) if each < k} | {k})) if metrics else ()
    return tuple(sorted({check_int("metrics", each, 1) for each in metrics}))


def _with_topk_callbacks(configure: Callable[[], Any], module: TopKMixin) -> list[Any]:
    """Callbacks of the module, and those of the mixin that neither it nor the trainer has yet."""
    callbacks = configure() or []
    callbacks = list(callbacks) if isinstance(callbacks, Sequence) else [callbacks]
    present = [*callbacks, *module.trainer.callbacks]  # type: ignore[attr-defined]
    if not any(isinstance(callback, MixinHooks) for callback in present):
        callbacks.append(MixinHooks())
    wanted = module.topk_class_counts is not False and isinstance(module.topk_criterion, TopKLoss)
    if wanted and not any(isinstance(callback, ClassFrequencies) for callback in present):
        needed = bool(module.topk_criterion.needs_class_counts) or module.topk_posthoc_tau is not None
        callbacks.append(
            ClassFrequencies(module.topk_class_counts, num_classes=module.topk_num_classes, required=needed)
        )
    return callbacks
