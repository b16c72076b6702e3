"""How exact `gaussian_topk` is: errors on random rows, against the plain way in float64 at a tolerance of 1e-9.

    python benchmarks/gaussian_accuracy.py --rows 4000 --seed 1

Rows are normal, raised at the label, tied, clustered, heavy-tailed or in a ramp, of spreads from 0 to 30 and 2 to 8,000
classes, with epsilon from 0.01 to 10; k is drawn from what takes the fast way on the CPU. Errors are those beyond the
rounding of float32 (1.2e-7 of the value). Exits with 1 if a row misses its tolerance.
"""

import argparse
import math
import sys

import numpy as np
import torch
from torch import Tensor

from lightning_topk.ops import gaussian_topk
from lightning_topk.ops._gaussian_function import fast_applies
from lightning_topk.ops._gaussian_quadrature import Plan, smoothed_kth

KINDS = ("normal", "raised", "tied", "two clusters", "head above a cluster", "heavy-tailed", "ramp", "few")
SPREADS = (0.0, 0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0)
# Rows that are computed together; each call has one shape, k and epsilon.
_TOGETHER = 4


def draw(random: np.random.Generator, tolerance: float) -> tuple[Tensor, int, float, str]:
    """Rows of one random setting [4, C], k, epsilon, and the setting in words."""
    kind = str(random.choice(KINDS))
    k = int(random.integers(1, 25 if tolerance >= 1e-3 else 13))
    classes = round(math.exp(random.uniform(math.log(max(2, 2 * k - 1)), math.log(8000))))
    spread, epsilon = float(random.choice(SPREADS)), float(np.exp(random.uniform(math.log(0.01), math.log(10))))
    shape = (_TOGETHER, classes)
    scores = random.standard_normal(shape)
    own = 6 * random.random((_TOGETHER, 1))
    few = int(random.integers(1, 13))
    if kind == "raised":
        scores[:, 0] += 8 / max(spread, 1e-2)
    elif kind == "tied":
        scores = np.round(3 * scores)
    elif kind == "two clusters":
        scores = (random.random(shape) < random.choice([0.01, 0.05, 0.3])) * own + 0.1 * scores
    elif kind == "head above a cluster":
        scores = np.where(np.arange(classes) < few, own + random.random(shape), 0.01 * scores)
    elif kind == "heavy-tailed":
        scores = random.standard_t(2, shape)
    elif kind == "ramp":
        scores = np.linspace(0, 4, classes) * own
    elif kind == "few":
        scores[:, few + k :] -= 30
    rows = torch.from_numpy(spread * scores).float()
    return rows, k, epsilon, f"{kind}, C={classes}, k={k}, epsilon={epsilon:.3g}, spread={spread}"


def errors(rows: Tensor, k: int, epsilon: float, tolerance: float) -> tuple[Tensor, Tensor]:
    """Errors of the value in units of epsilon, and of the gradient in L1 norm, shapes [4]."""
    plan = Plan.make(k, rows.shape[1], 1e-9)
    expected, slopes = smoothed_kth(rows.double(), k, epsilon, plan)
    leaf = rows.clone().requires_grad_()
    value = gaussian_topk(leaf, k, epsilon=epsilon, tolerance=tolerance)
    value.sum().backward()
    off = (value.detach() - expected).abs() - 1.2e-7 * expected.abs()
    return off.clamp(min=0) / epsilon, (leaf.grad - slopes).abs().sum(1)


def main() -> int:
    """Print the worst errors of both tolerances."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4000, help="rows for each tolerance")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    missed = 0
    for tolerance in (1e-3, 1e-5):
        random = np.random.default_rng([options.seed, round(-math.log10(tolerance))])
        values, gradients, words = [], [], []
        while len(words) < options.rows // _TOGETHER:
            rows, k, epsilon, setting = draw(random, tolerance)
            if 2 * k > rows.shape[1] + 1 or not fast_applies(rows, k, tolerance):
                continue
            value, gradient = errors(rows, k, epsilon, tolerance)
            if (value > tolerance).any() or (gradient > 10 * tolerance).any():
                missed += 1
                print(f"missed: {setting}: value {value.max():.2e}, gradient {gradient.max():.2e}", flush=True)
            values.append(value.max())
            gradients.append(gradient.max())
            words.append(setting)
        for name, found in (("value", torch.stack(values)), ("gradient, L1", torch.stack(gradients))):
            worst = int(found.argmax())
            low, high = found.quantile(torch.tensor([0.5, 0.99], dtype=found.dtype)).tolist()
            print(
                f"tolerance {tolerance:.0e}, {_TOGETHER * len(words)} rows, {name}: median {low:.1e}, 99 % {high:.1e}, "
                f"worst {found[worst]:.2e} ({words[worst]})",
                flush=True,
            )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
