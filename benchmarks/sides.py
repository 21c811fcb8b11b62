"""Commands side by side: timed in turn, their figures printed with ratios and aims."""

from __future__ import annotations

import statistics
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

from rkt_testkit.probes import SEARCH

if TYPE_CHECKING:
    from collections.abc import Callable

ENV = {"PATH": SEARCH, "LANG": "C.UTF-8", "HOME": "/root"}


class Side(NamedTuple):
    """One of the things compared: its name and the command (or the steps) to time."""

    name: str
    action: Callable[[], None]
    before: Callable[[], None] = lambda: None


def command(*argv: str, cwd: str | None = None) -> Callable[[], None]:
    """Make an action of a command; it must succeed."""

    def action() -> None:
        done = subprocess.run(
            argv, env=ENV, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if done.returncode != 0:
            words = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise SystemExit(f"{' '.join(argv)}: exit status {done.returncode}: {words}")

    return action


def output(*argv: str) -> str:
    """Run a command and give what it prints."""
    return subprocess.run(argv, env=ENV, check=True, capture_output=True, text=True).stdout


def compare(title: str, sides: list[Side], runs: int) -> dict[str, list[float]]:
    """Run the sides in turn, `runs` times each; print the table; give all times."""
    for side in sides:  # a first round for the caches, not counted
        side.before()
        side.action()
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(runs):
        for side in sides:
            side.before()
            begun = time.perf_counter()
            side.action()
            times[side.name].append(time.perf_counter() - begun)
    table(title, times)
    return times


def table(title: str, times: dict[str, list[float]]) -> None:
    """Print minimum and median of each side, and ratios of the first side to the others."""
    first = next(iter(times.values()))
    print(f"\n{title} ({len(first)} alternating runs)")
    print(f"  {'':<34}{'min':>10}{'median':>10}   first side : this one (min, median)")
    for name, values in times.items():
        low, middle = min(values), statistics.median(values)
        ratios = f"{min(first) / low:6.2f} {statistics.median(first) / middle:6.2f}"
        print(f"  {name:<34}{low * 1000:>7.1f} ms{middle * 1000:>7.1f} ms   {ratios}", flush=True)


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    """Give the ratio of two sides' medians."""
    return statistics.median(times[one]) / statistics.median(times[other])


def goal(what: str, value: float, limit: float) -> None:
    """Print a figure beside its aim."""
    print(
        f"  {what}: {value:.2f}, aim: at most {limit:.2f} -> {'ok' if value <= limit else 'MISSED'}"
    )
