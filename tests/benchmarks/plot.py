"""Pictures of what was measured: throughput by processes and by the length of a task, and latencies.

    python -m tests.benchmarks.plot SAMPLES.json FOLDER

draws what an earlier run wrote with `--json`.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

if not __package__:
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tests.benchmarks.columns import CELERY, DRAMATIQ, HUEY, IDEAL, OURS, RAW, RQ
from tests.benchmarks.samples import Samples

LOOKS: dict[str, dict[str, Any]] = {
    OURS: {"color": "#c0392b", "linewidth": 2.6, "marker": "o", "zorder": 5},
    RAW: {"color": "#7f8c8d", "linestyle": "--", "marker": "x"},
    IDEAL: {"color": "#7f8c8d", "linestyle": "--", "marker": "x"},
    DRAMATIQ: {"color": "#2471a3", "marker": "s"},
    HUEY: {"color": "#1e8449", "marker": "^"},
    RQ: {"color": "#8e44ad", "marker": "v"},
    CELERY: {"color": "#d68910", "marker": "D"},
}
"""The same for a library in all pictures."""

NAMES = {RAW: "bare loop over the same SQL", IDEAL: "the same calls, without a queue"}


def draw(samples: Samples, about: Sequence[str], folder: str) -> list[str]:
    """Draw what there are samples for; the files, which are written into that folder."""
    import matplotlib

    matplotlib.use("Agg")
    os.makedirs(folder, exist_ok=True)
    drawn = []
    for name, function in (
        ("throughput-by-processes", _by_processes),
        ("throughput-by-length", _by_length),
        ("latency", _latency),
    ):
        if figure := function(samples):
            path = os.path.join(folder, f"{name}.png")
            _finish(figure, about, path)
            drawn.append(path)
    return drawn


def _by_processes(samples: Samples) -> Any:
    prefix = "drain_at_"
    numbers = _numbers(samples, prefix)
    if not numbers:
        return None
    figure, (axes,) = _paper(1)
    for column in LOOKS:
        _line(axes, column, [(number, samples.median(f"{prefix}{number}", column)) for number in numbers])
    axes.set(xscale="log", yscale="log", xlabel="worker processes", ylabel="messages a second")
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.minorticks_off()
    _set_steps(axes.yaxis)
    axes.set_title("Running messages that wait, by worker processes (the task does nothing)")
    return figure


def _by_length(samples: Samples) -> Any:
    kinds = {"rest": "tasks that sleep", "compute": "tasks that compute"}
    prefixes = [kind for kind in kinds if _numbers(samples, f"{kind}_")]
    if not prefixes:
        return None
    figure, all_axes = _paper(len(prefixes))
    for axes, kind in zip(all_axes, prefixes, strict=True):
        lengths = _numbers(samples, f"{kind}_")
        for column in LOOKS:
            _line(axes, column, [(each, _busy(samples, f"{kind}_{each}", each, column)) for each in lengths])
        axes.set(xscale="log", xlabel="length of a task, ms", ylim=(0, 105))
        axes.set_xticks(lengths, [str(each) for each in lengths])
        axes.minorticks_off()
        axes.set_title(f"2 processes, {kinds[kind]}")
    all_axes[0].set_ylabel("throughput, % of what two slots can do")
    return figure


def _busy(samples: Samples, figure: str, milliseconds: int, column: str) -> float | None:
    """Percent of what two slots could do if nothing but the tasks took time."""
    rate = samples.median(figure, column)
    return None if rate is None else 100 * rate * milliseconds / 1000 / 2


def _latency(samples: Samples) -> Any:
    questions = {
        "pick_up": "from send to the first line of the task",
        "round_trip": "from send to the result in hand",
    }
    names = [name for name in questions if name in samples.times]
    if not names:
        return None
    figure, all_axes = _paper(len(names))
    for axes, name in zip(all_axes, names, strict=True):
        for column, times in samples.times[name].items():
            ordered = sorted(times)
            heights = [100 * (place + 1) / len(ordered) for place in range(len(ordered))]
            look = {**LOOKS[column], "marker": ""}
            axes.plot([each / 1e6 for each in ordered], heights, label=NAMES.get(column, column), **look)
        axes.set(xscale="log", xlabel="milliseconds", ylim=(0, 101))
        _set_steps(axes.xaxis)
        axes.set_title(questions[name])
    all_axes[0].set_ylabel("tries that took no longer, %")
    return figure


def _numbers(samples: Samples, prefix: str) -> list[int]:
    """With which the names of the figures end that begin so."""
    return sorted(int(name.removeprefix(prefix)) for name in samples.taken if name.startswith(prefix))


def _paper(count: int) -> tuple[Any, Any]:
    """A figure with so many pictures side by side."""
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 11, "axes.titlesize": 12, "lines.linewidth": 1.8, "lines.markersize": 6})
    figure, axes = pyplot.subplots(1, count, figsize=(11, 5.2), squeeze=False, layout="constrained")
    for each in axes[0]:
        each.grid(visible=True, color="#e5e7e9")
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[0])


def _line(axes: Any, column: str, points: Sequence[tuple[int, float | None]]) -> None:
    found = [(x, y) for x, y in points if y is not None]
    if found:
        axes.plot(*zip(*found, strict=True), label=NAMES.get(column, column), **LOOKS[column])


def _set_steps(axis: Any) -> None:
    """1, 2, 5, 10 and so on, as plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")


def _finish(figure: Any, about: Sequence[str], path: str) -> None:
    """Say in small print on what it was measured, and write the file."""
    from matplotlib import pyplot

    lines, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside upper center", ncols=len(names), frameon=False, fontsize=10)
    small = "\n".join(textwrap.wrap("; ".join(about), 190))
    figure.supxlabel(small, fontsize=7, color="#566573", x=0.01, ha="left")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    """Draw an earlier run."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        document = json.load(file)
    print("\n".join(draw(Samples.from_dict(document), document["about"], sys.argv[2])))


if __name__ == "__main__":
    main()
