"""One run: trained once, gone on with after a stop, and evaluated."""

import hashlib
import json
import shutil
import sys
import traceback
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml  # type: ignore[import-untyped]
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_topk.compare._clock import RunClock
from lightning_topk.compare._data import kept_data
from lightning_topk.compare._evaluate import check_parts, histograms
from lightning_topk.compare._jobs import Job, config_of_run
from lightning_topk.compare._launcher import Launcher, Parts
from lightning_topk.compare._lock import alone
from lightning_topk.compare._stop import stop_requested
from lightning_topk.report import write_atomically

Result = dict[str, Any]


def read_result(folder: Path) -> Result | None:
    """Return what a run has left, or ``None`` when it was not trained to its end."""
    path = folder / "result.json"
    if not path.is_file():
        return None
    result: Result = json.loads(path.read_text())
    return result


def lacks(job: Job, result: Result | None) -> dict[str, list[str]]:
    """Return what is still to be evaluated, by split."""
    found = {"val": {}, "test": {}} if result is None else result
    wanted = {"val": job.val, "test": job.test}
    return {
        split: [
            variant for variant in variants if variant not in found[split] or len(found[split][variant][0]) <= job.max_k
        ]
        for split, variants in wanted.items()
    }


def is_done(job: Job, result: Result | None) -> bool:
    """Tell whether nothing is left to do for a run."""
    return result is not None and not any(lacks(job, result).values())


def execute(
    job: Job,
    launcher: Launcher,
    report: Callable[[float], None] = lambda fraction: None,
    cache: MutableMapping[str, Any] | None = None,
) -> Result:
    """Train a run to its end and evaluate it, or what is left of both.

    Args:
        job: The run.
        launcher: Builds it.
        report: Is told from time to time which part of the training is done.
        cache: Where a process that makes many runs keeps the data from one to the next.

    Returns:
        The contents of ``result.json``: rank histograms by split and variant, and facts of the training.
    """
    result = read_result(job.folder)
    if result is not None and is_done(job, result):
        return result
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        with alone(job.folder):
            result = _execute(job, launcher, report, {} if cache is None else cache, read_result(job.folder))
    except SIGTERMException:
        raise
    except Exception:
        write_atomically(job.folder / "error.txt", traceback.format_exc())
        raise
    (job.folder / "error.txt").unlink(missing_ok=True)
    return result


def _execute(
    job: Job,
    launcher: Launcher,
    report: Callable[[float], None],
    cache: MutableMapping[str, Any],
    result: Result | None,
) -> Result:
    if result is not None and is_done(job, result):
        return result  # by another process, which was waited for
    weights = job.folder / "checkpoints" / f"{job.checkpoint}.ckpt"
    config = job.folder / "config.yaml"
    write_atomically(config, yaml.safe_dump(config_of_run(job), sort_keys=False))
    parts = launcher.build(config)
    check_parts(parts, job.max_k)
    parts.datamodule = kept_data(cache, job.config, parts.datamodule)
    in_memory = False
    if result is None or not weights.is_file():
        result = _train(job, parts, report)
        in_memory = job.checkpoint == "last"
        write_atomically(job.folder / "result.json", _text(result))
    for split, variants in lacks(job, result).items():
        if variants:
            _end_if_told()
            path = None if in_memory else weights
            result[split] |= histograms(parts, split, variants, job.max_k, path)
            in_memory = True
    write_atomically(job.folder / "result.json", _text(result))
    if job.test and not job.keep:
        remove_weights(job.folder)
    return result


def _train(job: Job, parts: Parts, report: Callable[[float], None]) -> Result:
    model, trainer = parts.model, parts.trainer
    _end_if_told()
    clock = RunClock(report)
    trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    last = job.folder / "checkpoints" / "last.ckpt"
    goes_on = last.is_file()
    initial = initial_weights(model)
    trainer.fit(
        model,
        datamodule=parts.datamodule,
        ckpt_path=str(last) if goes_on else None,
        weights_only=True if goes_on else None,
    )
    # The last checkpoint of the run may come from before its last step.
    trainer.save_checkpoint(last)
    best = next((each for each in trainer.checkpoint_callbacks if getattr(each, "monitor", None)), None)
    score = getattr(best, "best_model_score", None)
    counts = getattr(getattr(model, "topk_criterion", None), "class_counts", None)
    if counts is None:
        counts = getattr(parts.datamodule, "class_counts", None)
    return {
        "key": job.key,
        "seed": job.seed,
        "checkpoint": job.checkpoint,
        "best_score": None if score is None else float(score),
        "steps": trainer.global_step,
        "epochs": trainer.current_epoch,
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "parts": clock.parts,
        "threads": torch.get_num_threads(),
        "device": str(trainer.strategy.root_device),
        "initial_weights": initial,
        "class_counts": None if counts is None else torch.as_tensor(counts).tolist(),
        "versions": {
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "lightning_topk": sys.modules["lightning_topk"].__version__,
        },
        "val": {},
        "test": {},
    }


def initial_weights(model: torch.nn.Module) -> dict[str, str]:
    """Return a digest of the weights of each part of a model, apart from the loss."""
    found = {}
    for name, child in model.named_children():
        if name not in ("topk_criterion", "topk_evaluations") and (state := child.state_dict()):
            digest = hashlib.sha256()
            for key, value in state.items():
                digest.update(key.encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            found[name] = digest.hexdigest()[:12]
    return found


def remove_weights(folder: Path) -> None:
    """Remove the checkpoints of a run."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _end_if_told() -> None:
    if stop_requested():
        raise SIGTERMException


def _text(result: Result) -> str:
    return json.dumps(result, separators=(",", ":")) + "\n"
