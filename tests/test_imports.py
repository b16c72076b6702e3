"""What importing costs, and the direction in which imports go."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lightning_topk"
HEAVY = (
    "lightning",
    "pytorch_lightning",
    "torchvision",
    "torchmetrics",
    "matplotlib",
    "rich",
    "jsonargparse",
    "triton",
)

# A module imports from its own row and the rows above it, functions included.
LAYERS = (
    {"_checks", "_constants", "_reduce", "imbalance", "schedules", "ops"},
    {"losses", "metrics", "heads"},
    {
        "_cifar_networks",
        "_evaluation",
        "_ranks",
        "backbones",
        "callbacks",
        "data",
        "durable",
        "lr_schedulers",
        "module",
        "plot",
        "report",
    },
    {"compare"},
    {"cli"},
    {"__main__", "functional", "lightning_topk"},  # entry points: nothing inside imports them
)
LAYER = {unit: depth for depth, units in enumerate(LAYERS) for unit in units}

# (from, to): reason. Imports against the direction of LAYERS.
EXCEPTIONS: dict[tuple[str, str], str] = {}

# Packages that the two lower layers do without, also inside functions.
FRAMEWORKS = {"lightning", "pytorch_lightning", "torchvision", "jsonargparse", "rich"}


def unit_of(path: Path) -> str:
    """Return the family of a source file: the sub-package or module below ``lightning_topk``."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "lightning_topk" if first == "__init__" else first


def imported_names(path: Path) -> Iterator[str]:
    """Yield the dotted name of every import in a file, at any depth, in any form."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} should import by the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            # A computed name counts by its fixed beginning.
            first = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            if isinstance(first, ast.Constant):
                yield first.value


def edges() -> dict[tuple[str, str], str]:
    """Return the imports between families, each with one file that has it."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in imported_names(path):
            top, _, rest = name.partition(".")
            if top == "lightning_topk":
                inner = rest.partition(".")[0]
                is_unit = (PACKAGE / inner / "__init__.py").exists() or (PACKAGE / f"{inner}.py").exists()
                target = inner if inner and is_unit else "lightning_topk"
                found[unit_of(path), target] = path.relative_to(ROOT).as_posix()
    return found


def loaded_by(statement: str) -> set[str]:
    """Return the heavy packages in the memory of a fresh interpreter after ``statement``."""
    code = f"import sys\n{statement}\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "module",
    ["lightning_topk", *(f"lightning_topk.{name}" for name in ("losses", "ops", "heads", "imbalance", "schedules"))],
)
def test_the_way_of_the_loss_costs_torch_alone(module: str) -> None:
    assert loaded_by(f"import {module}") == set()


@pytest.mark.timeout(60)
def test_metrics_add_what_torchmetrics_brings_and_no_more() -> None:
    assert loaded_by("import lightning_topk.metrics") <= {"torchmetrics"} | loaded_by("import torchmetrics")


# A finder that stands before all others, and the same for metadata: what they are not told of is as not installed.
BLOCKER = """
import importlib.metadata
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def from_name(name):
    if name.lower().replace("_", "-") not in ALLOWED:
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)

found = importlib.metadata.Distribution.from_name
importlib.metadata.Distribution.from_name = from_name
sys.meta_path.insert(0, Blocker())
"""

LOSSES = """
import torch
from cases import CASES, batch
from lightning_topk.heads import NormalizedLinear
from lightning_topk.imbalance import class_counts, class_groups, log_priors
from lightning_topk.losses import build_loss, smooth_labels
from lightning_topk.schedules import Cosine

logits, targets = batch(dtype=torch.float32)
for case in CASES:
    loss = build_loss(case.make().spec())
    if loss.needs_class_counts:
        loss.bind_class_counts(class_counts(targets, num_classes=6) + 1)
    for labels in (targets, smooth_labels(targets, 6)):
        leaf = logits.clone().requires_grad_()
        loss(leaf, labels).backward()
        assert leaf.grad.isfinite().all() and leaf.grad.any(), case
    if hasattr(loss, "epsilon"):
        loss.epsilon = Cosine(start=1.0, end=0.1)(3, 10)
    loss.load_state_dict(loss.eval().state_dict())
    assert loss.double().train()(logits.double(), targets).isfinite()
head = NormalizedLinear(6, 6)
assert head(logits).abs().max() <= 1.0001
assert class_groups([500, 50, 5])["few"].tolist() == [False, False, True]
assert log_priors([1, 3]).exp().sum().isclose(torch.tensor(1.0))
print("worked", len(CASES))
"""

METRICS = """
import torch
from lightning_topk import functional
from lightning_topk.metrics import topk_metrics

logits, targets = torch.randn(40, 6), torch.randint(6, (40,))
metrics = topk_metrics(6, ks=[1, 3], groups=True, class_counts=[1, 50, 500] * 2)
for part in zip(logits.split(16), targets.split(16)):
    metrics.update(*part)
values = metrics.compute()
assert len(values) > 4 and all(0 <= value <= 1 for value in values.values()), values
metrics.reset()
assert all(callable(getattr(functional, name)) for name in functional.__all__)
print("worked", len(values))
"""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed_by(*names: str) -> set[str]:
    """Return the distributions that the named ones need, themselves included, extras left out."""
    found: set[str] = set()
    waiting = [*names]
    while waiting:
        name = canonical(waiting.pop())
        if name not in found:
            found.add(name)
            try:
                lines = metadata.requires(name) or []
            except metadata.PackageNotFoundError:  # of another platform
                continue
            waiting += [re.match(r"[\w.-]+", line)[0] for line in lines if "extra ==" not in line]
    return found


def works_with(code: str, *names: str) -> str:
    """Run a program where nothing is installed but the named distributions, what they need, and this package."""
    allowed = needed_by(*names) | {"lightning-topk"}
    # Python 3.10 does not list distributions without a top_level.txt, as rich 13 is.
    owners = {"rich": ["rich"], **metadata.packages_distributions()}
    blocked = sorted(top for top, of in owners.items() if not {canonical(name) for name in of} & allowed)
    assert {"lightning", "pytorch_lightning", "torchvision", "matplotlib", "rich", "jsonargparse"} <= {*blocked}
    folders = [str(ROOT), str(ROOT / "tests")]
    program = f"BLOCKED, ALLOWED = {blocked}, {sorted(allowed)}\n{BLOCKER}\nsys.path[:0] = {folders}\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(60)
def test_losses_and_operators_work_with_torch_and_numpy_alone() -> None:
    assert "torchmetrics" not in needed_by("torch", "numpy")
    assert works_with(LOSSES, "torch", "numpy").startswith("worked")


@pytest.mark.timeout(60)
def test_metrics_work_with_torch_and_torchmetrics_alone() -> None:
    assert works_with(METRICS, "torch", "torchmetrics").startswith("worked")


@pytest.mark.timeout(60)
def test_the_mixin_says_what_is_missing() -> None:
    code = "try:\n    from lightning_topk import TopKMixin\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    assert works_with(code, "torch", "torchmetrics").split() == ["lightning"]


@pytest.mark.timeout(60)
def test_names_of_the_package_are_found_on_first_use() -> None:
    code = "import lightning_topk as p; print(sorted(dir(p)) == sorted(p.__all__), p.TopKMixin.__module__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.stdout.split() == ["True", "lightning_topk.module._mixin"], done.stderr


def test_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import lightning_topk

    with pytest.raises(AttributeError, match="has no attribute 'TopKMixins'"):
        _ = lightning_topk.TopKMixins


def test_every_file_has_a_layer() -> None:
    assert {unit_of(path) for path in PACKAGE.rglob("*.py")} <= set(LAYER)


def test_imports_go_one_way() -> None:
    against = {
        f"{file}: {source} -> {target}"
        for (source, target), file in edges().items()
        if source != target and (source, target) not in EXCEPTIONS
        if LAYER[target] > LAYER[source] or LAYER[target] == len(LAYERS) - 1
    }
    assert not against


def test_no_family_imports_another_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for source, target in edges():
        if source != target:
            graph.setdefault(source, set()).add(target)
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


def test_exceptions_are_needed() -> None:
    assert set(EXCEPTIONS) <= set(edges())


def test_lower_layers_know_no_framework() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in PACKAGE.rglob("*.py")
        if LAYER[unit_of(path)] <= 1
        for name in imported_names(path)
        if name.partition(".")[0] in FRAMEWORKS
    }
    assert not found
