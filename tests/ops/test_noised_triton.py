"""The Triton kernel of the noised losses without a GPU: results under the interpreter, and what the compiler says."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import Tensor

from lightning_topk.ops import _noised_device
from lightning_topk.ops._full_noise import full_draws
from lightning_topk.ops._noised_device import device_draws

triton = pytest.importorskip("triton", "3.3", reason="Triton >= 3.3 is not installed")
from interpreted_noise import CASES, LAW, LAW_DRAWS, SEED  # noqa: E402

SIGNIFICANT = 1e-4
PROGRAM = Path(__file__).resolve().parents[1] / "interpreted_noise.py"
Found = dict[str, tuple[Tensor, ...]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    file = tmp_path_factory.mktemp("triton") / "found.pt"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(file)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(file)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", CASES)
def test_value_is_the_kth_largest_of_the_noised_row(found: Found, name: str) -> None:
    scores, k, epsilon, draws, _ = CASES[name]
    classes, offsets, noise = found[name]
    assert classes.shape == offsets.shape == (scores.shape[0], draws)
    assert classes.dtype == torch.int64
    scores = scores.float()
    assert torch.equal(offsets, epsilon * noise.gather(2, classes.unsqueeze(-1)).squeeze(-1))
    values = scores.gather(1, classes) + offsets
    expected = (scores.unsqueeze(1) + epsilon * noise).topk(k).values[..., -1]
    expected[scores.isnan().any(1)] = torch.nan
    assert torch.equal(values.nan_to_num(7.0e7), expected.nan_to_num(7.0e7))
    assert torch.equal(values.isnan(), scores.isnan().any(1, keepdim=True).expand_as(values))


@pytest.mark.timeout(120)
def test_a_split_row_gives_the_same(found: Found) -> None:
    for name in ("several groups of draws", "several blocks"):
        split = {"several blocks": "split"}.get(name, f"{name}, split")
        for whole, parts in zip(found[name], found[split], strict=True):
            assert torch.equal(whole, parts)


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox 4 x 32 of ten rounds as published, counters and results of shape [4, ...]."""
    low, shift, (k0, k1) = np.uint64(0xFFFFFFFF), np.uint64(32), key
    c = counter.astype(np.uint64)
    for _ in range(10):
        even, odd = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        mixed = (odd >> shift) ^ c[1] ^ np.uint64(k0), (even >> shift) ^ c[3] ^ np.uint64(k1)
        c = np.stack([mixed[0], odd & low, mixed[1], even & low])
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def test_reference_has_the_published_answers() -> None:
    # Known answers of the authors' library (Random123).
    zeros = philox(np.zeros((4, 1)), (0, 0))[:, 0]
    assert [hex(word) for word in zeros] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
    ones = philox(np.full((4, 1), 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF))[:, 0]
    assert [hex(word) for word in ones] == ["0x408f276d", "0x41c83b0e", "0xa20bc7c6", "0x6d5451fd"]


@pytest.mark.timeout(120)
def test_noise_is_that_of_the_published_generator(found: Found) -> None:
    noise = found["noise"]
    rows, draws, classes = noise.shape
    row, draw, quad = np.meshgrid(np.arange(rows), np.arange(draws), np.arange(classes // 4), indexing="ij")
    key = int(SEED) % 2**64
    words = philox(np.stack([quad, row, draw, 0 * quad]), (key % 2**32, key >> 32)).astype(np.float64)
    radius, angle = np.sqrt(-2 * np.log((words[::2] + 0.5) / 2**32)), 2 * np.pi * words[1::2] / 2**32
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(4, rows, draws, -1, 256)
    # Class q + 256 p of a block of 1,024 has number p of the four.
    expected = np.moveaxis(normals, 0, 3).reshape(rows, draws, classes)
    sizes = np.moveaxis(np.repeat(radius, 2, 0).reshape(4, rows, draws, -1, 256), 0, 3).reshape(rows, draws, classes)
    # Relative to the radius; where that is small, its square is a difference of float32 numbers near 1.
    error = np.abs(noise.double().numpy() - expected) * sizes.clip(max=1.0) / sizes.clip(min=1.0)
    assert error.max() < 1e-6


@pytest.mark.timeout(120)
def test_noise_is_normal_and_independent(found: Found) -> None:
    noise = found["noise"].double()
    assert kstest(noise.flatten().numpy(), "norm").pvalue > SIGNIFICANT
    count = noise.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float(noise.pow(power).mean()) - moment) < 4 * math.sqrt(variance / count)
    # Rows and draws, the four numbers of one counter, and neighbours, with their squares.
    cells = noise.flatten(0, 1)
    quads = noise.reshape(-1, 4, 256).transpose(0, 1).flatten(1)
    for together in (cells, quads, torch.stack((cells.flatten()[:-1], cells.flatten()[1:]))):
        for values in (together, together.square()):
            off = torch.corrcoef(values) - torch.eye(len(values))
            assert off.abs().max() < 4.5 / math.sqrt(values.shape[1])


@pytest.mark.timeout(120)
def test_selected_classes_have_the_law_of_the_plain_path(found: Found) -> None:
    plain = full_draws(LAW[:1].expand(4000, -1), 2, 1.0, 50, torch.Generator().manual_seed(3))[0]
    expected = plain.flatten().bincount(minlength=7).double() / plain.numel()
    kernel = found["law"][0]
    assert kernel.shape == (len(LAW), LAW_DRAWS)
    # Few draws of the kernel itself, and many of its noise, which it selects from as shown above.
    noise = found["noise"].flatten()
    cells = noise[: noise.numel() // 7 * 7].reshape(-1, 7)
    many = (LAW[0] + cells).topk(2).indices[:, -1]
    for drawn in (kernel, many):
        counts = drawn.flatten().bincount(minlength=7).double()
        assert (
            chisquare(counts.numpy(), (expected.double() / expected.double().sum() * counts.sum()).numpy()).pvalue
            > SIGNIFICANT
        )


TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def compiled(arch: int, dtype: str, k: int, draws: int, kth_only: bool) -> bytes:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lightning_topk.ops._noised_triton import LANES, WARPS
    from lightning_topk.ops._triton_kth import kth_of_row

    fixed = {"K": k, "SLOTS": triton.next_power_of_2(k), "DRAWS": draws, "LANES": LANES, "KTH_ONLY": kth_only}
    sizes = ("num_classes", "stride", "num_samples", "splits", "groups", "quads")
    signature = {"logits": f"*{dtype}", "seeds": "*i64", "values": "*fp32", "classes": "*i64", "offsets": "*fp32"}
    signature |= dict.fromkeys(sizes, "i32") | {"epsilon": "fp32"} | dict.fromkeys(fixed, "constexpr")
    places = {(list(signature).index(name),): value for name, value in fixed.items()}
    options = {"num_warps": WARPS, "enable_fp_fusion": True}
    source = ASTSource(kth_of_row, signature, places)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options).asm["cubin"]


@pytest.mark.timeout(120)
@pytest.mark.skipif(not (TOOLS / "ptxas").exists(), reason="this build of Triton has no ptxas")
@pytest.mark.skipif(bool(os.environ.get("TRITON_INTERPRET")), reason="kernels are interpreted in this process")
@pytest.mark.parametrize(
    ("arch", "dtype", "k", "draws", "kth_only"), [(90, "fp32", 6, 5, True), (80, "bf16", 2, 1, False)]
)
def test_compiles_for_a_gpu_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: int, dtype: str, k: int, draws: int, kth_only: bool
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    code = compiled(arch, dtype, k, draws, kth_only)
    assert code.startswith(b"\x7fELF")
    dump = shutil.which("cuobjdump", path=str(TOOLS))
    if dump is None:
        pytest.skip("registers are not looked at: this build of Triton has no cuobjdump")
    (tmp_path / "kernel.cubin").write_bytes(code)
    usage = subprocess.run(
        [dump, "--dump-resource-usage", tmp_path / "kernel.cubin"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    used = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    # Two programs of 256 threads find room in the 65,536 registers of a multiprocessor, and nothing is spilled but four
    # registers by the compiler of Triton 3.3.
    assert used["REG"] <= 128
    assert used["LOCAL"] == 0
    assert used["STACK"] <= (16 if triton.__version__.startswith("3.3.") else 0)


def test_devices_without_the_kernel_draw_in_full() -> None:
    scores = torch.randn(3, 50)
    drawn = device_draws(scores, 2, 1.0, 4, torch.Generator().manual_seed(1))
    expected = full_draws(scores, 2, 1.0, 4, torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))


def test_the_kernel_gets_a_seed_of_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def kernel(scores: Tensor, k: int, epsilon: float, num_samples: int, seed: Tensor) -> tuple[Tensor, Tensor]:
        seeds.append(seed)
        return scores[:, :num_samples].long(), scores[:, :num_samples]

    monkeypatch.setattr(_noised_device, "_suits", lambda scores, k: True)
    monkeypatch.setattr(_noised_device, "_kernel_of", lambda device: kernel)
    for start in (1, 1, 2):
        device_draws(torch.randn(3, 50), 2, 1.0, 4, torch.Generator().manual_seed(start))
    assert all(seed.shape == (1,) and seed.dtype == torch.int64 for seed in seeds)
    assert seeds[0] == seeds[1] != seeds[2]


def as_on_cuda(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


def test_without_triton_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_cuda(monkeypatch)
    monkeypatch.setitem(sys.modules, "lightning_topk.ops._noised_triton", None)
    monkeypatch.delattr("lightning_topk.ops._noised_triton", raising=False)
    assert _noised_device._kernel_of.__wrapped__(torch.device("cuda")) is None


def test_a_kernel_that_does_not_work_is_left_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_topk.ops import _noised_triton

    as_on_cuda(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(_noised_triton, "check_on", lambda device: None)
        assert _noised_device._kernel_of.__wrapped__(torch.device("cuda")) is _noised_triton.kth_of_kernel
        as_on_cuda(patch, (7, 5))
        assert _noised_device._kernel_of.__wrapped__(torch.device("cuda")) is None

    def fail(device: torch.device) -> None:
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(_noised_triton, "check_on", fail)
    with pytest.warns(RuntimeWarning, match="kernel does not work there: RuntimeError: Failed to find C compiler."):
        assert _noised_device._kernel_of.__wrapped__(torch.device("cuda")) is None


@pytest.mark.parametrize(
    ("rank", "scale", "message"), [(2, 1.0, "kernel is off by"), (3, 1.1, "The mean, the square"), (3, 1.0, None)]
)
def test_check_finds_a_wrong_kernel(
    monkeypatch: pytest.MonkeyPatch, rank: int, scale: float, message: str | None
) -> None:
    from lightning_topk.ops import _noised_triton

    def noise(seed: Tensor, rows: int, draws: int, classes: int) -> Tensor:
        return scale * torch.randn(rows, draws, classes, generator=torch.Generator().manual_seed(0))

    def kernel(scores: Tensor, k: int, epsilon: float, draws: int, seed: Tensor, splits: int) -> tuple[Tensor, Tensor]:
        drawn = noise(seed, scores.shape[0], draws, scores.shape[1])
        classes = (scores.unsqueeze(1) + drawn).topk(rank).indices[..., -1:]
        return classes.squeeze(-1), drawn.gather(2, classes).squeeze(-1)

    monkeypatch.setattr(_noised_triton, "noise_of", noise)
    monkeypatch.setattr(_noised_triton, "kth_of_kernel", kernel)
    with pytest.raises(RuntimeError, match=message) if message else nullcontext():
        _noised_triton.check_on(torch.device("cpu"))


def test_who_gets_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)

    class OnCuda(Tensor):
        device = torch.device("cuda")

    def suits(k: int = 2, dtype: torch.dtype = torch.float32, shape: tuple[int, int] = (2, 50)) -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(_noised_device, "Tensor", OnCuda)
            return _noised_device._suits(torch.empty(shape, dtype=dtype).as_subclass(OnCuda), k)

    for setting in ({}, {"k": 16}, {"dtype": torch.bfloat16}, {"dtype": torch.float16}):
        assert suits(**setting), setting
    for setting in ({"k": 17}, {"dtype": torch.float64}, {"shape": (0, 50)}, {"shape": (2, 0)}):
        assert not suits(**setting), setting
    assert not _noised_device._suits(torch.randn(2, 50), 2)
    assert not _noised_device._suits(torch.randn(2, 50).as_subclass(OnCuda), 2)
