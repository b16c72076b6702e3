"""The page of a report and the tables beside it: right, whole, self-contained, and readable in a browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from functools import partial
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_topk import TopKMixin
from lightning_topk.callbacks import TopKReport
from lightning_topk.callbacks._report_examples import example_pictures
from lightning_topk.callbacks._report_observed import Found
from lightning_topk.metrics._pair_counts import PairCounts
from report.report_cases import NUM_CLASSES, Net, fit, loader, make_trainer, read_csv, samples, two_ranks

pytestmark = pytest.mark.filterwarnings("ignore:Experiment logs directory")

REPORT = Path("logs", "run", "version_0", "report")
NAMES = ['<script>alert("x")</script>', "a & b", "Åsa's <b>", *(f"class {c}" for c in range(3, NUM_CLASSES))]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Reads a page as a browser does, and refuses what is not well formed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page() -> str:
    return (REPORT / "report.html").read_text(encoding="utf-8")


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Images [3, 12, 12] whose mean colours are the features of :func:`samples`; counts how often each was read."""

    def __init__(self, size: int = 40, seed: int = 0) -> None:
        self.features, self.targets = samples(size, seed).tensors
        self.classes = NAMES
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.read.append(index)
        return self.features[index].view(3, 2, 1).repeat(1, 6, 12), int(self.targets[index])


class PictureNet(Net):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.topk_loss(self.net(batch[0][:, :, :2, 0].flatten(1)), batch[1])

    test_step = validation_step


def picture_loader(size: int = 40, seed: int = 0) -> DataLoader:
    return DataLoader(Pictures(size, seed), batch_size=8)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page with a validation and a test on images, whose classes have unusual names."""
    folder = tmp_path_factory.mktemp("shown")
    torch.manual_seed(0)
    trainer, net = make_trainer(TopKReport(dirpath=folder, look_alikes=28), logger=False), PictureNet()
    trainer.validate(net, picture_loader(), verbose=False)
    trainer.test(net, picture_loader(25, seed=1), verbose=False)
    return folder / "report" / "report.html"


# --- what is on the page


def test_the_page_is_well_formed_and_needs_no_other_file(shown: Path) -> None:
    text = shown.read_text(encoding="utf-8")
    read = Reader(text)
    ids = Counter(attributes["id"] for _, attributes in read.elements if "id" in attributes)
    assert max(ids.values()) == 1
    for tag, attributes in read.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), (tag, value)
            if value is not None and value.startswith("#"):
                assert value[1:] in ids
        assert not any(name.startswith("on") for name in attributes), "nothing runs"
    assert read.all("script") == read.all("link") == []
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {f"#{name}" for name in ids}
    assert "@import" not in text
    assert read.all("html") == [{"lang": "en"}]
    assert {"width=device-width, initial-scale=1"} <= {meta.get("content") for meta in read.all("meta")}


def test_headings_tables_and_alternatives_are_those_of_an_accessible_page(shown: Path) -> None:
    read = Reader(shown.read_text(encoding="utf-8"))
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - level <= 1 for level, later in pairwise(levels))
    assert all(attributes.get("scope") in ("col", "row") for attributes in read.all("th"))
    assert len(read.all("table")) == len(read.all("caption"))
    pictures = [each for each in read.all("div") if each.get("role") == "img"]
    assert len(pictures) == len(read.all("svg")) == 8
    assert all(len(each["aria-label"] or "") > 40 for each in pictures)
    assert all("among its 3 best" in (each["alt"] or "") for each in read.all("img"))
    assert read.all("img")


def test_names_of_classes_are_text(shown: Path) -> None:
    read = Reader(shown.read_text(encoding="utf-8"))
    assert read.all("script") == []
    for name in NAMES:
        assert name in read.text


def test_the_page_says_what_the_tables_say() -> None:
    fit()
    text = Reader(page()).text
    for row in read_csv(REPORT / "val_table.csv"):
        assert f"{100 * float(row['top3']):.1f}" in text
    loss = "ImbalancedNoisedTopKLoss(k=3"
    assert loss in text
    assert "398 samples of 8 classes, from 3 to 150 each" in text
    assert torch.__version__ in text
    assert "Learning curves" in text
    assert "does not make probabilities of its scores" in text


def test_a_softmax_loss_is_not_said_to_make_no_probabilities() -> None:
    fit(net=Net(loss="CrossEntropyLoss"))
    assert "does not make probabilities" not in page()


def test_a_test_joins_the_page_of_its_fit_and_a_new_fit_begins_another() -> None:
    trainer, net = fit()
    trainer.test(net, loader(25, seed=2), verbose=False)
    anchors = [each["href"] for each in Reader(page()).all("a")]
    assert anchors == ["#val", "#test", "#learning_curves"]
    trainer.fit_loop.max_epochs = 3
    trainer.fit(net, loader(), loader(30, seed=1))
    assert [each["href"] for each in Reader(page()).all("a")] == ["#val", "#learning_curves"]


def test_a_page_without_counts_images_or_classes_that_were_seen() -> None:
    ignored = TensorDataset(torch.randn(4, 6), torch.full((4,), -100))
    net = Net(loss="CrossEntropyLoss", class_counts=False)
    make_trainer().validate(net, DataLoader(ignored, batch_size=4), verbose=False)
    assert "No two classes were." in Reader(page()).text
    assert not (REPORT / "val_average_k.csv").exists()


def test_examples_that_cannot_be_read_cost_a_warning() -> None:
    class Gone(Pictures):
        closed = False

        def __getitem__(self, index: int) -> Any:
            if self.closed:
                raise OSError("the file is closed")
            return super().__getitem__(index)

    class Closing(TopKReport):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_validation_end(trainer, pl_module)
            Gone.closed = True

    with pytest.warns(UserWarning, match=r"Examples of look-alikes should be read from the data set.*closed"):
        make_trainer(Closing()).validate(PictureNet(), DataLoader(Gone(), batch_size=8), verbose=False)
    assert "Look-alikes" in page()
    assert Reader(page()).all("img") == []


# --- look-alikes


def slow_pairs(net: Net, dataset: TensorDataset, k: int = 3) -> Counter[tuple[int, int]]:
    counts: Counter[tuple[int, int]] = Counter()
    with torch.no_grad():
        for features, label in dataset:
            best = sorted(range(NUM_CLASSES), key=lambda c: -float(net.net(features)[c]))[:k]
            counts.update((int(label), other) for other in best)
    return counts


def test_look_alikes_are_those_of_a_slow_loop() -> None:
    _, net = fit(TopKReport(look_alikes=5))
    data = samples(30, seed=1)
    counts = slow_pairs(net, data)
    rows = read_csv(REPORT / "val_look_alikes.csv")
    assert len(rows) == 5
    both = {(a, b): counts[a, b] + counts[b, a] for a in range(NUM_CLASSES) for b in range(a + 1, NUM_CLASSES)}
    assert [int(row["b_in_topk_of_a"]) + int(row["a_in_topk_of_b"]) for row in rows] == sorted(both.values())[:-6:-1]
    for row in rows:
        a, b = int(row["class_a"]), int(row["class_b"])
        assert (int(row["b_in_topk_of_a"]), int(row["a_in_topk_of_b"])) == (counts[a, b], counts[b, a])
        assert int(row["samples_a"]) == int((data.tensors[1] == a).sum())


def test_counts_that_may_be_too_low_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    few = partial(PairCounts, dense_classes=0, most_pairs=10)
    monkeypatch.setattr("lightning_topk.callbacks._report_observed.PairCounts", few)
    make_trainer().validate(Net(), loader(), verbose=False)
    assert re.search(r"too many pairs to keep them all: a count may be too low by \d+", Reader(page()).text)
    assert len(read_csv(REPORT / "val_look_alikes.csv")) <= 10


def test_examples_show_samples_of_the_pair() -> None:
    data = Pictures(40, seed=1)
    net = PictureNet()
    make_trainer(TopKReport(look_alikes=4, examples=2)).validate(net, DataLoader(data, batch_size=8), verbose=False)
    shown = data.read[40:]  # after the evaluation itself
    assert 0 < len(shown) <= 4 * 2 * 2
    wanted = [
        (int(row[f"class_{own}"]), int(row[f"class_{other}"]))
        for row in read_csv(REPORT / "val_look_alikes.csv")
        for own, other in ("ab", "ba")
    ]
    expected = []
    for own, other in wanted:
        found = []
        for index in (data.targets == own).nonzero().flatten().tolist():
            best = net.net(data.features[index]).topk(3).indices.tolist()
            if other in best:
                found.append((best.index(other), index))
        expected += [index for _, index in sorted(found)[:2]]
    assert shown == expected
    assert len(Reader(page()).all("img")) == len(shown)


def test_the_random_state_is_left_alone() -> None:
    class Random(Pictures):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return image + 0 * torch.rand(()), label

    states = []
    for report in (TopKReport(figures=False), TopKReport()):
        torch.manual_seed(5)
        make_trainer(report).validate(PictureNet(), DataLoader(Random(), batch_size=8), verbose=False)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_loader_of_unknown_order_gives_no_examples() -> None:
    found = Found(labels=torch.tensor([0, 1]), best=torch.tensor([[0, 1], [1, 0]]))
    data = Pictures(2)
    data.targets = torch.tensor([0, 1])
    assert example_pictures(found, DataLoader(data, batch_size=2), [(0, 1)], 1)
    for other in (DataLoader(data, batch_size=2, shuffle=True), DataLoader(data, batch_size=None), None):
        assert example_pictures(found, other, [(0, 1)], 1) == {}
    data.targets = torch.tensor([1, 0])  # not what was seen
    assert example_pictures(found, DataLoader(data, batch_size=2), [(0, 1)], 1) == {}


# --- average-K


def test_the_threshold_of_the_test_was_chosen_in_validation() -> None:
    trainer, net = fit()
    validation = read_csv(REPORT / "val_average_k.csv")
    trainer.test(net, loader(25, seed=2), verbose=False)
    test = read_csv(REPORT / "test_average_k.csv")
    assert [row["threshold"] for row in test] == [row["threshold"] for row in validation]
    assert {row["threshold_from"] for row in test} == {"val"}
    with torch.no_grad():
        features, labels = samples(25, seed=2).tensors
        shares = net.net(features).softmax(1)
    for row in test:
        sets = shares >= float(row["threshold"])
        assert float(row["mean_set_size"]) == pytest.approx(sets.sum(1).float().mean().item(), abs=1e-6)
        own = sets[torch.arange(25), labels].float().mean().item()
        assert float(row["average_k_accuracy"]) == pytest.approx(own, abs=1e-6)
    for row in validation:
        assert float(row["mean_set_size"]) <= int(row["k"])


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
def test_the_threshold_is_in_the_checkpoint() -> None:
    keep = ModelCheckpoint("ckpt", filename="{epoch}", save_top_k=-1)
    _, net = fit(TopKReport(), keep, enable_checkpointing=True, max_epochs=2)
    last = read_csv(REPORT / "val_average_k.csv")
    make_trainer().test(net, loader(25, seed=2), ckpt_path="ckpt/epoch=1.ckpt", verbose=False)
    assert [row["threshold"] for row in read_csv(REPORT / "test_average_k.csv")] == [row["threshold"] for row in last]


def test_a_test_alone_chooses_its_own_threshold_and_says_so() -> None:
    make_trainer().test(Net(), loader(25, seed=2), verbose=False)
    assert {row["threshold_from"] for row in read_csv(REPORT / "test_average_k.csv")} == {"test"}
    assert "chosen on these very samples" in page()


# --- options


def test_what_is_switched_off_is_not_there() -> None:
    fit(TopKReport(look_alikes=0, reliability=False))
    assert {path.name for path in REPORT.iterdir()} >= {"report.html", "val_accuracy_by_k.png"}
    assert not list(REPORT.glob("*look_alikes*")) + list(REPORT.glob("*average_k*")) + list(REPORT.glob("*coverage*"))


def test_nothing_is_observed_without_figures_or_files() -> None:
    seen: list[int] = []

    class Watched(Net):
        def topk_begin_batch(self, stage: str, loader: int, rows: Any) -> None:
            super().topk_begin_batch(stage, loader, rows)
            seen.append(sum(len(each.observers) for each in self.topk_evaluations.values()))

    fit(TopKReport(figures=False), net=Watched())
    fit(TopKReport(), net=Watched(), fast_dev_run=True)
    assert set(seen) == {0}
    fit(TopKReport(), net=Watched())
    assert max(seen) == 1


def test_observers_are_gone_after_an_evaluation_and_after_an_error() -> None:
    class Broken(Net):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)
            if self.trainer.current_epoch == 1 and batch_idx == 1:
                raise RuntimeError("boom")

    net = Broken()
    with pytest.raises(RuntimeError, match="boom"):
        fit(net=net)
    assert [each.observers for each in net.topk_evaluations.values()] == [[]]


@pytest.mark.parametrize("name", ["look_alikes", "examples"])
def test_options_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` should be an integer >= 0\. Found `{name} = -1`"):
        TopKReport(**{name: -1})


def test_repr_names_what_is_not_as_usual() -> None:
    shown = repr(TopKReport(look_alikes=0, reliability=False))
    assert shown == "TopKReport(ks=None, dirpath=None, figures=True, look_alikes=0, reliability=False)"


def test_rows_that_are_no_samples() -> None:
    class Segmentation(TopKMixin, Net.__mro__[2], loss="CrossEntropyLoss", k=2):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(6, NUM_CLASSES)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.topk_loss(self.net(batch[0]), batch[1])

    data = TensorDataset(torch.randn(12, 5, 6), torch.randint(NUM_CLASSES, (12, 5)))
    make_trainer().validate(Segmentation(), DataLoader(data, batch_size=4), verbose=False)
    assert sum(int(row["samples_a"]) for row in read_csv(REPORT / "val_look_alikes.csv")) > 0
    assert Reader(page()).all("img") == []


# --- two processes


@pytest.mark.timeout(60)
def test_two_ranks_find_what_one_does(capfd: pytest.CaptureFixture[str]) -> None:
    net = Net()
    options: dict[str, Any] = {"devices": 2, "strategy": two_ranks()}
    make_trainer(TopKReport(), **options).validate(net, loader(31, seed=1), verbose=False)
    names = ("val_look_alikes.csv", "val_average_k.csv")
    two = [(REPORT / name).read_text() for name in names]
    make_trainer(TopKReport()).validate(net, loader(31, seed=1), verbose=False)
    assert two == [(REPORT / name).read_text() for name in names]


@pytest.mark.timeout(60)
def test_two_ranks_show_examples(capfd: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"devices": 2, "strategy": two_ranks()}
    make_trainer(TopKReport(), **options).validate(PictureNet(), picture_loader(31, seed=1), verbose=False)
    assert Reader(page()).all("img")


# --- a real browser


@pytest.fixture(scope="module")
def chromium() -> str:
    """Return the command of a headless Chromium, or skip: that of ``CHROMIUM``, or one in the path."""
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium is installed, nor named by the environment variable CHROMIUM")
    return found


def browse(chromium: str, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", *options]
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=50, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr  # a refused resource, an error of the page
    return done


@pytest.mark.timeout(120)
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_lays_the_page_out_without_scrolling_sideways(chromium: str, shown: Path, width: int) -> None:
    # The policy of the page lets no script run, so the measuring is done by a copy without it, in a frame of the width.
    script = (
        "<script>onload = () => { const root = document.documentElement;"
        "const figures = [...document.querySelectorAll('svg.figure')].map(f => f.getBoundingClientRect());"
        "const letters = [...document.querySelectorAll('svg.figure text')]"
        ".map(t => t.getBoundingClientRect().height);"
        "const pictures = [...document.images].filter(i => i.complete && i.naturalWidth > 0).length;"
        "root.dataset.found = JSON.stringify([root.scrollWidth, innerWidth, figures.length,"
        "Math.min(...figures.map(f => f.width)), Math.min(...letters), pictures, document.images.length]); }</script>"
    )
    copy = re.sub(r"<meta http-equiv=[^>]*>", "", shown.read_text(encoding="utf-8")).replace(
        "</head>", f"{script}</head>"
    )
    Path("measured.html").write_text(copy, encoding="utf-8")
    frame = (
        f'<!DOCTYPE html><body style="margin:0"><iframe src="measured.html" style="border:0" width="{width}" '
        'height="3000"></iframe><script>onload = () => { document.title = "";'
        "document.body.dataset.found = frames[0].document.documentElement.dataset.found }</script>"
    )
    Path("frame.html").write_text(frame, encoding="utf-8")
    url = Path("frame.html").resolve().as_uri()
    seen = browse(chromium, url, "--dump-dom", "--allow-file-access-from-files", "--window-size=1400,1000").stdout
    found = re.search(r'data-found="\[([^"]*)\]"', seen)
    assert found is not None, seen[-500:]
    scroll, inner, figures, narrowest, letters, loaded, images = map(float, found[1].split(","))
    assert scroll <= inner == width
    assert figures == 8
    assert narrowest > 0.4 * min(width, 600)
    assert letters >= 8.0
    assert loaded == images > 0


@pytest.mark.timeout(120)
def test_a_browser_shows_the_page_light_and_dark_without_a_complaint(chromium: str, shown: Path) -> None:
    from matplotlib import image

    url = shown.as_uri()
    brightness = []
    for scheme in (1, 0):  # light, dark
        picture = Path(f"{scheme}.png")
        options = (f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}")
        browse(chromium, url, *options, "--window-size=800,1200", "--hide-scrollbars")
        pixels = image.imread(picture)[..., :3]
        assert pixels.std() > 0.02
        brightness.append(float(pixels.mean()))
    assert brightness[0] > 0.8
    assert brightness[1] < 0.4
