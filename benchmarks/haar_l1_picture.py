"""The figures of test_haar_l1.py as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt


def draw(cases: list[dict[str, Any]], path: Path, title: str) -> None:
    """Share of the copy bandwidth by case (GPU), or milliseconds of each implementation by levels (CPU)."""
    figure, axes = plt.subplots(figsize=(10, 4.5), layout="constrained")
    if "share_of_copy" in cases[0]:
        for dtype in dict.fromkeys(case["dtype"] for case in cases):
            chosen = [case for case in cases if case["dtype"] == dtype]
            labels = ["x".join(map(str, case["shape"])) + f" L{case['levels']}" for case in chosen]
            axes.plot(labels, [100 * case["share_of_copy"] for case in chosen], "o-", label=dtype)
        axes.axhline(85, color="grey", linestyle=":", label="target at 50 MB and more")
        axes.set_ylabel("% of the bandwidth of a copy")
        axes.tick_params(axis="x", rotation=90)
    else:
        names = list(dict.fromkeys(case["what"] for case in cases))
        for i, name in enumerate(names):
            chosen = [case for case in cases if case["what"] == name]
            places = [case["levels"] + 0.8 * (i - (len(names) - 1) / 2) / len(names) for case in chosen]
            axes.bar(places, [case["min_ms"] for case in chosen], 0.8 / len(names), label=name)
        axes.set_xticks(sorted({case["levels"] for case in cases}))
        axes.set_xlabel("levels")
        axes.set_ylabel("ms, forward + backward (minimum)")
    axes.set_title(title, fontsize=9)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
