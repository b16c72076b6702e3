"""Files that others have made are read without running what is in them.

Every payload would create the file ``made-by-the-payload`` as soon as it is unpickled or called.
"""

from __future__ import annotations

import functools
import http.server
import io
import json
import os
import pickle
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands import GLYPHS, SHORT, SMALL, Printed, command
from lightning_topk import TopKClassifier
from lightning_topk.callbacks import ClassFrequencies
from lightning_topk.data import ArrayDataModule
from lightning_topk.imbalance import read_counts
from lightning_topk.losses import build_loss
from runs import make_trainer, vectors

MADE = Path("made-by-the-payload")
FIT = (*GLYPHS, *SMALL, *SHORT, "--trainer.logger", "false", "--trainer.enable_checkpointing", "false")
CALL = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(MADE)]}}


class Payload:
    """Touches a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {MADE}",)


@pytest.fixture(autouse=True)
def _nothing_was_run() -> Iterator[None]:
    yield
    assert not MADE.exists()


def test_the_payload_works() -> None:
    pickle.loads(pickle.dumps(Payload()))
    assert MADE.exists()
    MADE.unlink()


def refused(printed: Printed, found: str, lines: int = 4) -> None:
    """One clear error: law, fact, where help is."""
    assert printed.status == 2, printed.err
    errors = printed.err[printed.err.index("error: ") :].splitlines()  # after a bar of a download
    assert found in printed.err
    assert "Traceback" not in printed.err
    assert len(errors) <= lines


# Class counts. Name and content of a file, and what the message says of it.
COUNTS: dict[str, tuple[str, bytes, str]] = {
    "pickle as JSON": ("c.json", pickle.dumps(Payload()), "no UTF-8 text|Expecting value"),
    "pickle as CSV": ("c.csv", pickle.dumps(Payload()), "no UTF-8 text|could not convert"),
    "pickle of protocol 0": ("c.json", pickle.dumps(Payload(), 0), "Expecting value"),
    "pickle by its name": ("c.pkl", pickle.dumps(Payload()), "Found `c.pkl`"),
    "checkpoint": ("c.pt", pickle.dumps(Payload()), "Found `c.pt`"),
    "Python": ("c.json", b"__import__('os').system('touch made-by-the-payload')", "Expecting value"),
    "YAML tag": ("c.json", b"!!python/object/apply:os.system [touch made-by-the-payload]", "Expecting value"),
    "formula": ("c.csv", b"count\n=cmd|'/c calc'!A0\n", "could not convert"),
    "nested deeply": ("c.json", b"[" * 100_000, "nested too deeply"),
    "a number of many digits": ("c.json", b"[" + b"9" * 5000 + b"]", "digits"),
    "infinity": ("c.json", b"[1e999, 2]", "Found inf for class 0"),
    "not a number": ("c.json", b"[NaN, 2]", "Found nan for class 0"),
    "beyond 64 bits": ("c.json", b"[1e30, 2]", "Found 1.*e\\+30 for class 0"),
    "beyond 64 bits, whole": ("c.json", b"[" + b"9" * 30 + b", 2]", "is not"),
    "another type": ("c.json", b'{"counts": "abc"}', "is not"),
    "null": ("c.json", b"null", "is not"),
    "a class far away": ("c.json", b'{"0": 1, "1000000000000": 2}', "without gaps. Found 2 up to 1000000000000"),
    "a strange digit": ("c.json", '{"0": 1, "\u00b2": 2}'.encode(), "is not"),
    "ragged rows": ("c.csv", b"class,count\n0,1\n1\n", "is not"),
    "a long cell": ("c.csv", b"count\n" + b"1" * 200_000 + b"\n", "field larger than field limit"),
    "null bytes": ("c.csv", b"count\n\0\0\0\n", "is not"),
    "truncated": ("c.json", b'{"counts": [1, 2', "Expecting"),
    "empty": ("c.json", b"", "Expecting value"),
    "empty table": ("c.csv", b"", "is not"),
    "too large": ("c.json", b" " * (1 << 16), "at most"),
}


@pytest.mark.parametrize("case", COUNTS)
def test_counts(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, content, message = COUNTS[case]
    if case == "too large":
        monkeypatch.setattr("lightning_topk.imbalance._counts.LARGEST_FILE", 1 << 15)
    Path(name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"A file of class counts should be .*({message})"):
        read_counts(name)
    callback = ClassFrequencies(name)
    data = torch.utils.data.DataLoader(vectors(), batch_size=8)
    model = TopKClassifier(torch.nn.Linear(6, 5), num_classes=8, loss="CrossEntropyLoss", k=2)
    with pytest.raises(ValueError, match="A file of class counts should be"):
        make_trainer(callback).fit(model, data)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["folder", "pipe", "link to itself"])
def test_counts_that_are_no_file(kind: str) -> None:
    path = Path("c.json")
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link to itself": lambda: path.symlink_to(path)}[kind]()
    with pytest.raises(OSError, match=r"A file of class counts should .*`c.json`"):
        read_counts(path)


def test_counts_on_the_command_line() -> None:
    Path("c.json").write_bytes(pickle.dumps(Payload()))
    refused(command("fit", *FIT, "--model.class_counts", "c.json"), "A file of class counts should be JSON")


# Data. What is written into `data.npz`, and what the message says.
def archive(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return stream.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def header(text: str, data: bytes = b"", version: int = 1) -> bytes:
    """A file of NumPy with any header."""
    encoded = text.encode() + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(encoded))
    return b"\x93NUMPY" + bytes([version, 0]) + size + encoded + data


def shape(*numbers: int, dtype: str = "|u1") -> bytes:
    return header(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {numbers}, }}", bytes(64))


GOOD = {"x": npy(np.zeros((24, 4, 4), np.uint8)), "y": npy(np.arange(24) % 4)}
OBJECTS = npy(np.array([Payload()] * 24, dtype=object))
DATA: dict[str, tuple[bytes, str]] = {
    "pickle": (pickle.dumps(Payload()), "cannot be read"),
    "array of objects as images": (archive(**{**GOOD, "x": OBJECTS}), "Found `x` of object"),
    "array of objects as labels": (archive(**{**GOOD, "y": OBJECTS}), "Object arrays cannot be loaded"),
    "pickle in the place of an array": (archive(**{**GOOD, "y": pickle.dumps(Payload())}), "magic string"),
    "code in a header": (
        archive(**{**GOOD, "x": header("__import__('os').system('touch x')")}),
        "cannot be read: malformed node",
    ),
    "10^12 images": (archive(**{**GOOD, "x": shape(10**12, 4, 4)}), "Found 16000000000000 bytes declared"),
    "10^12 labels": (archive(**{**GOOD, "y": shape(10**12, dtype="<i8")}), "Found 8000000000000 bytes declared"),
    "more than 64 bits": (archive(**{**GOOD, "x": shape(10**12, 10**12, 3)}), "bytes declared"),
    "negative shape": (archive(**{**GOOD, "x": shape(-24, 4, 4)}), "cannot be read"),
    "shape of texts": (
        archive(**{**GOOD, "x": header("{'descr': '|u1', 'fortran_order': False, 'shape': ('a',), }")}),
        "cannot be read",
    ),
    "long header": (archive(**{**GOOD, "x": header(" " * 100_000, version=2)}), "cannot be read"),
    "nested header": (archive(**{**GOOD, "x": header("(" * 5000, version=2)}), "cannot be read"),
    "unknown version": (archive(**{**GOOD, "x": header("{}", version=9)}), "cannot be read"),
    "array that ends too early": (archive(**{**GOOD, "y": GOOD["y"][:150]}), "bytes declared"),
    "array with a tail": (archive(**{**GOOD, "y": GOOD["y"] + b"tail"}), "bytes declared"),
    "truncated": (archive(**GOOD)[:-40], "cannot be read"),
    "half": (archive(**GOOD)[:200], "cannot be read"),
    "damaged": (archive(**GOOD)[:60] + bytes(20) + archive(**GOOD)[80:], "cannot be read"),
    "empty": (b"", "cannot be read"),
    "no members": (archive(), "Found no `x`"),
    "image of another format": (b"\x89PNG\r\n\x1a\n" + bytes(100), "cannot be read"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", DATA)
def test_data(case: str) -> None:
    content, message = DATA[case]
    Path("data.npz").write_bytes(content)

    def use() -> None:
        data = ArrayDataModule(".")
        data.setup()
        next(iter(data.train_dataloader()))

    with pytest.raises((ValueError, TypeError), match=rf"A data file should .*{message}"):
        use()
    if case in ("pickle", "array of objects as images", "10^12 labels", "truncated"):
        refused(command("fit", "--data", "ArrayDataModule", *SMALL, *SHORT), "A data file should")


def test_an_encrypted_member() -> None:
    content = bytearray(archive(**GOOD))
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flag that a password is needed
        at = content.find(signature)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(signature, at + 4)
    Path("data.npz").write_bytes(content)
    with pytest.raises(ValueError, match="A data file should .*password"):
        _ = ArrayDataModule(".").num_classes


@pytest.mark.timeout(60)
def test_an_array_beyond_the_memory_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_topk.data._npz.memory", lambda: 10_000)
    Path("data.npz").write_bytes(archive(x=npy(np.zeros((2400, 4, 4), np.uint8)), y=npy(np.arange(2400) % 4)))
    with pytest.raises(ValueError, match=r"should fit into memory.*Found `x` of 38400 bytes"):
        _ = ArrayDataModule(".").num_classes


# Checkpoints.
def checkpoint(path: Path, **content: Any) -> Path:
    """A checkpoint of a real run, with something in it."""
    model = TopKClassifier("small_convnet", num_classes=12, loss="CrossEntropyLoss", k=3, in_channels=1)
    trainer = make_trainer()
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    torch.save({**torch.load(path), **content}, path)
    return path


WAYS = {
    "hyper-parameters": {"hyper_parameters": {"num_classes": Payload()}},
    "weights": {"state_dict": {"head.weight": Payload()}},
    "callbacks": {"callbacks": {"TopKReport": Payload()}},
    "loops": {"loops": Payload()},
    "data": {"GlyphsDataModule": Payload()},
    "another key": {"x": Payload()},
}


def test_a_good_checkpoint_is_taken(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "x.ckpt")
    assert command("validate", *FIT, "--ckpt_path", str(path)).status == 0
    assert TopKClassifier.load_from_checkpoint(path).topk_k == 3


@pytest.mark.parametrize(
    ("subcommand", "way"),
    [*(("fit", way) for way in WAYS), *((name, "weights") for name in ("validate", "test", "predict"))],
)
def test_checkpoints_on_the_command_line(way: str, subcommand: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "x.ckpt", **WAYS[way])
    refused(command(subcommand, *FIT, "--ckpt_path", str(path)), f"Found `posix.system` in `{path}`")


def test_the_last_checkpoint_of_a_run(tmp_path: Path) -> None:
    saving = ("--trainer.callbacks", "ModelCheckpoint", "--trainer.callbacks.dirpath", "kept")
    Path("kept").mkdir()
    checkpoint(Path("kept/last.ckpt"), x=Payload())
    args = (*GLYPHS, *SMALL, *SHORT, "--trainer.logger", "false", *saving, "--trainer.callbacks.save_last", "true")
    refused(command("fit", *args, "--ckpt_path", "last"), "Found `posix.system`", 6)


def test_a_checkpoint_from_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning alone would run what is in it: it asks torch for weights only when that is said."""
    checkpoint(tmp_path / "x.ckpt", x=Payload())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    # A client that has seen enough of the file hangs up, and the server would print that.
    monkeypatch.setattr(http.server.HTTPServer, "handle_error", lambda *_: None)
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/x.ckpt"
            printed = command("validate", *FIT, "--ckpt_path", url)
        finally:
            server.shutdown()
            thread.join()
    refused(printed, "Found `posix.system`", 6)


@pytest.mark.parametrize("way", WAYS)
def test_checkpoints_in_python(way: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "x.ckpt", **WAYS[way])
    data = torch.utils.data.DataLoader(vectors(), batch_size=8)
    model = TopKClassifier(torch.nn.Linear(6, 5), num_classes=8, loss="CrossEntropyLoss", k=2)
    ways: list[Callable[[], Any]] = [
        lambda: torch.load(path),
        lambda: TopKClassifier.load_from_checkpoint(path),
        lambda: make_trainer().fit(model, data, ckpt_path=path),
        lambda: make_trainer().validate(model, data, ckpt_path=path),
    ]
    for load in ways:
        with pytest.raises(pickle.UnpicklingError, match=r"posix\.system"):
            load()


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "cannot be read"),
    "text": (lambda _: b"not a checkpoint", "cannot be read"),
    "truncated": (lambda content: content[: len(content) // 2], "cannot be read"),
    "without its end": (lambda content: content[:-10], "cannot be read"),
    "plain pickle": (lambda _: pickle.dumps(Payload()), "cannot be read|Found `posix.system`"),
    "tensor": (lambda _: saved(torch.zeros(3)), "Found no `state_dict`"),
    "weights alone": (lambda _: saved({"head.weight": torch.zeros(3)}), "Found no `state_dict`.*'head.weight'"),
    "empty mapping": (lambda _: saved({}), "Found no `state_dict`"),
}


def saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.parametrize("case", DAMAGED)
def test_files_that_are_no_checkpoints(case: str, tmp_path: Path) -> None:
    change, message = DAMAGED[case]
    path = checkpoint(tmp_path / "x.ckpt")
    path.write_bytes(change(path.read_bytes()))
    printed = command("validate", *FIT, "--ckpt_path", str(path))
    refused(printed, str(path))
    assert any(each in printed.err for each in message.replace(".*", "|").split("|"))


def test_code_is_run_for_those_who_ask_for_it(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "x.ckpt", x=Payload())
    same = ("--model.loss", "CrossEntropyLoss", "--model.k", "3")
    assert command("validate", *FIT, *same, "--ckpt_path", str(path), "--weights_only", "false").status == 0
    assert MADE.exists()
    MADE.unlink()


@pytest.mark.parametrize("place", ["loss", "operator", "inner loss", "backbone"])
def test_hyper_parameters_of_a_checkpoint_call_nothing_but_losses(place: str, tmp_path: Path) -> None:
    """Plain values can name a class too: what is named is looked at before it is called."""
    loss = {
        "loss": CALL,
        "operator": {"class_path": "SoftTopKLoss", "init_args": {"k": 3, "operator": CALL}},
        "inner loss": {"class_path": "STkLoss", "init_args": {"loss": CALL}},
        "backbone": "CrossEntropyLoss",
    }[place]
    hyper = {"num_classes": 12, "loss": loss, "backbone": CALL if place == "backbone" else "small_convnet"}
    path = checkpoint(tmp_path / "x.ckpt", hyper_parameters={**hyper, "k": 3, "in_channels": 1})
    with pytest.raises((TypeError, ValueError), match="should"):
        TopKClassifier.load_from_checkpoint(path)
    if place != "backbone":
        with pytest.raises(TypeError, match="should"):
            build_loss(loss)
    for named in ({}, {"_class_path": "lightning_topk.TopKClassifier"}, {"_class_path": "subprocess.Popen"}):
        checkpoint(path, hyper_parameters={**hyper, "k": 3, **named})
        assert command("validate", *FIT, "--ckpt_path", str(path)).status != 0


# Configurations.
@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch made-by-the-payload']",
        "!!python/object/new:os.system ['touch made-by-the-payload']",
        "!!python/object/apply:subprocess.Popen [['touch', 'made-by-the-payload']]",
        "!!python/name:os.system ''",
        "!!python/module:antigravity ''",
        "!!python/tuple [1]",
    ],
)
@pytest.mark.parametrize("content", ["seed_everything: {}\n", "model: {}\n", "{}\n"])
def test_tags_of_yaml_are_not_obeyed(tag: str, content: str) -> None:
    Path("bad.yaml").write_text(content.format(tag))
    printed = command("fit", "--config", "bad.yaml")
    refused(printed, "could not determine a constructor for the tag", 12)


@pytest.mark.parametrize("value", ["{class_path: subprocess.Popen, init_args: {args: [touch, x]}}", "os.system"])
@pytest.mark.parametrize("option", ["--model", "--model.loss", "--data", "--trainer.callbacks", "--optimizer"])
def test_a_class_path_has_to_name_a_class_that_fits(option: str, value: str) -> None:
    refused(command("fit", option, value), "should name a class that fits there", 8)


def test_counts_round_trip() -> None:
    Path("c.json").write_text(json.dumps({"counts": [3, 2, 1]}))
    assert read_counts("c.json").tolist() == [3, 2, 1]
