"""Tables and figures of `speed.py`."""

from __future__ import annotations

import csv
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

MAIN = ("threads", "huge_pages", "spread", "k", "samples", "batch", "epsilon", "dtype")


def facts(command: list[str]) -> dict[str, str]:
    """Machine, versions, date and command."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor()
    names = ("torch", "numpy", "lightning-topk", "pytopk", "difftopk")
    return {
        "processor": processor,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: found for name in names if (found := _version(name))},
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", "benchmarks/speed.py", *command[1:]]),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def write(results: list[dict], about: dict[str, str], folder: Path) -> None:
    """Print the tables, and write them as CSV and Markdown."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    lines = ["# Speed\n", *(f"- {name}: {value}" for name, value in about.items()), ""]
    for title, columns, rows in tables(results):
        table = Table(title=title, title_justify="left")
        for column in ["loss", *columns]:
            table.add_column(column, justify="left" if column == "loss" else "right", no_wrap=True)
        lines += [f"## {title}\n", "| loss | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
        for name, cells in rows.items():
            table.add_row(name, *cells)
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
        console.print(table)
    for result in results:
        lines += _breakdowns(result)
    (folder / "speed.md").write_text("\n".join(lines))
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        numbers = ("median", "low", "high", "base", "runs", "allocated", "resident")
        names = ("classes", *MAIN)
        writer.writerow([*names, "loss", *numbers])
        for result in results:
            for name, row in result["rows"].items():
                setting = [result["setting"][key] for key in names]
                writer.writerow([*setting, name, *(row.get(number, "") for number in numbers)])


def tables(results: list[dict]) -> list[tuple[str, list[str], dict[str, list[str]]]]:
    """One table of times and one of memory for each group of settings that differ in the number of classes alone."""
    groups: dict[tuple, list[dict]] = {}
    for result in results:
        groups.setdefault(tuple(result["setting"][key] for key in MAIN), []).append(result)
    made = []
    for key, group in groups.items():
        group = sorted(group, key=lambda result: result["setting"]["classes"])
        what = ", ".join(f"{name} {value}" for name, value in zip(MAIN, key, strict=True))
        columns = [f"C = {result['setting']['classes']:,}" for result in group]
        names = list(dict.fromkeys(name for result in group for name in result["rows"]))
        times = {name: [_time(name, result["rows"].get(name)) for result in group] for name in names}
        made.append((f"Time of a step as a multiple of cross-entropy, median [quartiles]: {what}", columns, times))
        memory = {name: [_memory(result["rows"].get(name)) for result in group] for name in names}
        if any(cell != "-" for cells in memory.values() for cell in cells):
            made.append((f"Memory of a step in sizes of the logits, allocated / resident: {what}", columns, memory))
    return made


def _time(name: str, row: dict | None) -> str:
    if row is None:
        return "-"
    if name == "cross-entropy":
        return f"{row['median'] * 1e3:.3f} ms = 1"
    low, median, high = (row[key] / row["base"] for key in ("low", "median", "high"))
    extra = (row["median"] - row["base"]) * 1e3
    return f"{median:.2f} [{low:.2f}, {high:.2f}], {extra:+.2f} ms"


def _memory(row: dict | None) -> str:
    return f"{row['allocated']:.2f} / {row['resident']:.2f}" if row and "allocated" in row else "-"


def _breakdowns(result: dict) -> list[str]:
    lines = []
    for name, row in result["rows"].items():
        if "breakdown" in row:
            lines += [f"## Where the time goes: {name}, C = {result['setting']['classes']:,}\n", "| operator | share |"]
            lines += ["|---|---:|", *(f"| {key} | {share:.0%} |" for key, share in row["breakdown"].items()), ""]
    return lines


def figures(results: list[dict], folder: Path, only: list[str] | None = None) -> None:
    """Time and memory against C, time against K, and where the time goes; of rows whose names begin so."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    first = {key: results[0]["setting"][key] for key in ("classes", *MAIN)}
    for x, y, label in (
        ("classes", "time", "time / cross-entropy"),
        ("classes", "allocated", "peak memory / logits"),
        ("k", "time", "time / cross-entropy"),
    ):
        fixed = {
            key: value for key, value in (first | {"classes": results[0]["setting"]["classes"]}).items() if key != x
        }
        chosen = [r for r in results if all(r["setting"][key] == value for key, value in fixed.items())]
        points: dict[str, list[tuple[float, float]]] = {}
        for result in sorted(chosen, key=lambda r: r["setting"][x]):
            for name, row in result["rows"].items():
                if only and not name.startswith(tuple(only)):
                    continue
                value = row["median"] / row["base"] if y == "time" else row.get(y)
                if value is not None:
                    points.setdefault(name, []).append((result["setting"][x], value))
        if max(map(len, points.values()), default=0) < 2:
            continue
        figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
        for number, (name, line) in enumerate(points.items()):
            axes.plot(*zip(*line, strict=True), marker="osv^D"[number % 5], color=plt.cm.tab20(number % 20), label=name)
        axes.set(xscale="log", yscale="log", xlabel={"classes": "C", "k": "K"}[x], ylabel=label)
        axes.legend(fontsize=7, ncols=2, loc="center left", bbox_to_anchor=(1.0, 0.5))
        figure.savefig(folder / f"{'memory' if y == 'allocated' else y}_{x}.svg")
        plt.close(figure)
    by_classes = sorted(
        (r for r in results if all(r["setting"][key] == first[key] for key in MAIN)),
        key=lambda r: r["setting"]["classes"],
    )
    parts = [
        (f"{name}, C = {r['setting']['classes']:,}", r["rows"][name]["breakdown"])
        for name in dict.fromkeys(name for r in by_classes for name in r["rows"])
        for r in by_classes
        if "breakdown" in r["rows"].get(name, {})
    ][::-1]
    if parts:
        figure, axes = plt.subplots(figsize=(9, 1 + 0.4 * len(parts)), layout="constrained")
        for place, (_, shares) in enumerate(parts):
            left = 0.0
            for operator, share in list(shares.items())[:6]:
                axes.barh(place, share, left=left, edgecolor="white")
                axes.text(
                    left + share / 2, place, operator.removeprefix("aten::"), ha="center", fontsize=6, rotation=20
                )
                left += share
        axes.set(yticks=range(len(parts)), yticklabels=[name for name, _ in parts], xlabel="share of the time")
        axes.set(xlim=(0, 1), ylim=(-0.6, len(parts) - 0.4))
        figure.savefig(folder / "breakdown.svg")
        plt.close(figure)
