"""The docs name everything that is public, their code runs, and their links lead somewhere."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGE = ROOT / "lightning_topk"
FAMILIES = sorted(
    path.parent.name if path.name == "__init__.py" else path.stem
    for path in [*PACKAGE.glob("[!_]*.py"), *PACKAGE.glob("*/__init__.py")]
)
WITH_EXAMPLE = {"losses", "metrics", "callbacks"}
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_module_has_a_place_in_the_docs(family: str) -> None:
    directive = re.compile(rf"automodule:: lightning_topk\.{family}$", re.MULTILINE)
    assert [page.name for page in PAGES if directive.search(page.read_text())], f"no page prints {family}"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_public_name_is_documented(family: str) -> None:
    module = importlib.import_module(f"lightning_topk.{family}")
    assert module.__doc__
    assert module.__all__, f"lightning_topk.{family} should list its public names in `__all__`"
    for name in module.__all__:
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        doc = inspect.cleandoc(value.__doc__ or "")
        assert doc, f"{family}.{name} has no docstring"
        if family in WITH_EXAMPLE and not inspect.isabstract(value):
            assert re.search(r"^Examples?:\n\s+.*>>> ", doc, re.MULTILINE | re.DOTALL), f"{family}.{name}: no Example"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_run(page: Path) -> None:
    """All blocks of a page run one after another, in one namespace, as a reader would type them."""
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": "__page__"}
    for block in FENCE.finditer(text):
        language, code = block.groups()
        if language == "python":
            lines_above = "\n" * text.count("\n", 0, block.start(2))  # a traceback shows the line of the page
            exec(compile(lines_above + code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    prose = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{name_of(page)} links to {target}, which does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{name_of(page)} links to {target}, which is no heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_shipped_files_named_in_the_text_exist(page: Path) -> None:
    for path in re.findall(r"\bconfigs/[\w/]+\.yaml", page.read_text()):
        assert (ROOT / path).exists() or path == "configs/loss/x.yaml", f"{name_of(page)} names {path}"


def test_toctree_holds_every_page() -> None:
    listed = set(re.findall(r"^[a-z_]+$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE))
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"} <= listed
