"""All checks that need a GPU, in one command; see gpu.md.

    python benchmarks/gpu.py --output build/gpu

Correctness against float64 on the CPU, time against cross-entropy, compiled and fused cross-entropy, peak memory,
autocast, `torch.compile`, and whether a step waits for the device; the noised loss with its Triton kernel and without,
and what that kernel finds. Without a GPU it says so and exits with the status 2.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from scipy.stats import chisquare
from speed_output import facts
from speed_rows import BASE, Loss, Setting, ours
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_topk.ops import _noised_device
from lightning_topk.ops._full_noise import full_draws

NOISY = ("noised",)


def on(device: str, loss: Loss) -> Loss:
    return copy.deepcopy(loss).to(device) if isinstance(loss, nn.Module) else loss


def value_and_gradient(loss: Loss, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, targets)
    value.backward()
    return value.detach().double().cpu(), leaf.grad.double().cpu()


def errors(loss: Loss, setting: Setting, *, autocast: bool = False, compiled: bool = False) -> tuple[float, float]:
    """Error of the value, relative, and of the gradient, in its L1 norm, against float64 on the CPU."""
    logits, targets = setting.data()
    expected, slopes = value_and_gradient(on("cpu", loss), logits.double(), targets)
    there = on("cuda", loss)
    if compiled:
        torch._dynamo.reset()
        there = torch.compile(there, fullgraph=True)
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        value, gradient = value_and_gradient(there, logits.cuda(), targets.cuda())
    off = float((gradient - slopes).abs().sum() / slopes.abs().sum().clamp(min=1e-30))
    return float((value - expected).abs() / expected.abs().clamp(min=1e-6)), off


def waits(loss: Loss, setting: Setting) -> str:
    """The first place in which a step waits for the device; empty when it does not."""
    logits, targets = (part.cuda() for part in setting.data())
    there, leaf = on("cuda", loss), logits.requires_grad_()
    there(leaf, targets).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        there(leaf, targets).backward()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def milliseconds(step: Callable[[], object], runs: int) -> list[float]:
    found = []
    for _ in range(runs):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        step()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end))
    return found


@torch.compile
def loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    log_shares = logits.log_softmax(-1)
    own = torch.arange(logits.shape[-1], device=logits.device) == targets.unsqueeze(-1)
    return -(log_shares * own).sum(-1).mean(), (log_shares.exp() - own.to(logits)) / len(targets)


class FusedCrossEntropy(torch.autograd.Function):
    """Cross-entropy that computes its gradient on the way forward, and takes it for that of the whole step."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, logits: Tensor, targets: Tensor) -> Tensor:
        loss, gradient = loss_and_gradient(logits, targets)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0], None


def without_kernel(loss: Loss) -> Loss:
    """The same loss in plain operators."""

    def plain(logits: Tensor, targets: Tensor) -> Tensor:
        found, _noised_device._kernel_of = _noised_device._kernel_of, lambda device: None
        try:
            return loss(logits, targets)
        finally:
            _noised_device._kernel_of = found

    return plain


def kernel_lines(classes: list[int]) -> list[str]:
    """The kernel against plain operators: the same noise, up to rounding, and noise of their own, in law."""
    kernel = _noised_device._kernel_of(torch.device("cuda", torch.cuda.current_device()))
    if kernel is None:
        return ["The kernel cannot be had here: Triton >= 3.3 and a GPU of capability 8.0 or more are needed."]
    from lightning_topk.ops._triton_noise import noise_of

    lines = ["| C | dtype | k | rows | largest error of a value |", "|---:|---|---:|---:|---:|"]
    seed = torch.tensor([2**40 + 7], device="cuda")
    for count in classes:
        for dtype, k, rows in ((torch.float32, 6, 128), (torch.bfloat16, 2, 128), (torch.float32, 16, 1)):
            rows = min(rows, max(1, 20_000_000 // count))  # the noise of all classes is written here
            scores = (3 * torch.randn(rows, count, device="cuda")).to(dtype)
            at, offsets = kernel(scores, k, 1.0, 5, seed)
            expected = (scores.float().unsqueeze(1) + noise_of(seed, rows, 5, count)).topk(k).values[..., -1]
            error = float((scores.gather(1, at) + offsets - expected).abs().max())
            lines.append(f"| {count:,} | {str(dtype).removeprefix('torch.')} | {k} | {rows} | {error:.1e} |")
    scores = torch.tensor([2.0, 1.7, 1.2, 0.8, 0.3, 0.0, -0.6], device="cuda").expand(20_000, -1).contiguous()
    counts = [
        found(scores)[0].flatten().bincount(minlength=7).double().cpu()
        for found in (
            lambda scores: kernel(scores, 2, 1.0, 10, seed),
            lambda scores: full_draws(scores.repeat(20, 1), 2, 1.0, 10, None),
        )
    ]
    law = chisquare(counts[0].numpy(), (counts[1] / counts[1].sum() * counts[0].sum()).numpy()).pvalue
    return [*lines, "", f"Selected classes against plain operators, chi-square: p = {law:.3f}"]


def timed(rows: dict[str, Loss], setting: Setting, rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of a step, rows in turn, and peak memory of one in sizes of the logits."""
    logits, targets = (part.cuda() for part in setting.data())
    leaf = logits.requires_grad_()

    def step(loss: Loss) -> None:
        leaf.grad = None
        loss(leaf, targets).backward()

    there = {name: on("cuda", loss) for name, loss in rows.items()}
    there["cross-entropy, compiled"] = torch.compile(cross_entropy)
    there["cross-entropy, fused"] = FusedCrossEntropy.apply
    if "noised" in rows:
        there["noised, plain operators"] = without_kernel(there["noised"])
    times: dict[str, list[float]] = {name: [] for name in there}
    found: dict[str, dict[str, float]] = {}
    for name in list(there):
        try:
            milliseconds(lambda loss=there[name]: step(loss), 3)
        except torch.OutOfMemoryError:
            del there[name]
            continue
        leaf.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(there[name])
        memory = (torch.cuda.max_memory_allocated() - before) / (leaf.numel() * leaf.element_size())
        found[name] = {"memory": memory}
    for _ in range(rounds):
        for name, loss in there.items():
            times[name] += milliseconds(lambda loss=loss: step(loss), 3)
    for name, row in found.items():
        row["milliseconds"] = statistics.median(times[name])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows whose names begin so")
    parser.add_argument("--output", type=Path, default=Path("build/gpu"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"This benchmark needs a CUDA device. Found none with torch {torch.__version__}.", file=sys.stderr)
        raise SystemExit(2)
    warnings.simplefilter("ignore")
    about = facts(sys.argv) | {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    lines = ["# On a GPU\n", *(f"- {name}: {value}" for name, value in about.items()), ""]
    report: dict[str, object] = {"facts": about}

    small = Setting(classes=1_000)
    rows = {n: loss for n, loss in ours(small).items() if not options.only or n.startswith(tuple(options.only))}
    lines += ["## Correctness, against float64 on the CPU, and waiting\n"]
    lines += ["| loss | value | gradient, L1 | autocast | compiled | waits |", "|---|---:|---:|---:|---:|---|"]
    for name, loss in rows.items():
        # The noise of two devices differs; without it the noised losses are compared in full.
        if name.startswith(NOISY):
            loss = copy.deepcopy(loss)
            loss.epsilon = 0.0
        cells = [*errors(loss, small), errors(loss, small, autocast=True)[0], errors(loss, small, compiled=True)[0]]
        report[name] = {"errors": cells, "waits": waits(rows[name], small)}
        lines.append(f"| {name} | " + " | ".join(f"{c:.1e}" for c in cells) + f" | {report[name]['waits'] or 'no'} |")

    if any(name.startswith(NOISY) for name in rows):
        report["kernel"] = kernel_lines(options.classes)
        lines += ["", "## The kernel of the noised losses\n", *report["kernel"]]

    lines += ["", "## Time and memory of a step\n", "| C | loss | ms | / cross-entropy | / fused | memory / logits |"]
    lines += ["|---:|---|---:|---:|---:|---:|"]
    for classes in options.classes:
        setting = Setting(classes=classes)
        chosen = {name: loss for name, loss in ours(setting).items() if name in rows}
        found = timed({BASE: cross_entropy, **chosen}, setting, options.rounds)
        report[f"C = {classes}"] = found
        base = found[BASE]["milliseconds"]
        fused = found.get("cross-entropy, fused", {}).get("milliseconds", float("nan"))
        for name, row in found.items():
            ratio, memory = row["milliseconds"] / base, row["memory"]
            cells = f"{row['milliseconds']:.3f} | {ratio:.2f} | {row['milliseconds'] / fused:.2f} | {memory:.2f}"
            lines.append(f"| {classes:,} | {name} | {cells} |")
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "gpu.md").write_text("\n".join(lines) + "\n")
    (options.output / "gpu.json").write_text(json.dumps(report, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
