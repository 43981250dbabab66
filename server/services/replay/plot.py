"""A replayed campaign as a picture: updated against comparable devices, the rule's wealth with its limits, the end."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from firmware_store.errors import ConfigurationError, InvalidInputError
from server.domain.halt.policy import HaltPolicy
from server.services.replay.run import Point, Result

_SIZE: Final = (10.0, 6.5)
_UPDATED: Final = "#c0392b"
_CONTROL: Final = "#2c6fbb"
_END: Final = "#222222"
_SHADE: Final = "#dddddd"


def draw(result: Result, policy: HaltPolicy, path: Path) -> None:
    """Write a picture of a replay that kept its curve; the suffix of ``path`` names its format.

    Raises:
        ConfigurationError: matplotlib is not installed.
        InvalidInputError: the file cannot be written, or its format is not known.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra that only this command needs
        from matplotlib.ticker import PercentFormatter  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigurationError("Pictures need matplotlib: pip install tidegate[plot]") from exc
    hours = [point.virtual_s / 3600 for point in result.curve]
    figure = Figure(figsize=_SIZE, layout="constrained")
    shares, wealth = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    shares.plot(
        hours,
        [point.updated_silent for point in result.curve],
        color=_UPDATED,
        label="updated, last hour",
    )
    shares.plot(
        hours,
        [point.control_silent for point in result.curve],
        color=_CONTROL,
        label="comparable, not updated",
    )
    shares.yaxis.set_major_formatter(PercentFormatter(1.0))
    shares.set_ylabel("silent at the deadline")
    shares.set_ylim(bottom=0)
    shares.set_title(f"{result.name}, seed {result.seed}, {result.devices:,} devices: {result.verdict}", loc="left")
    wealth.semilogy(hours, [max(point.wealth, 1e-3) for point in result.curve], color=_END, label="odds against luck")
    for limit, what in ((policy.brake_at, "brake"), (policy.halt_at, "halt")):
        wealth.axhline(limit, color=_UPDATED, linewidth=0.8, linestyle="--")
        wealth.annotate(f"{what} at {limit:g}", (0, limit), xytext=(4, 3), textcoords="offset points", fontsize=8)
    wealth.set_ylabel("wealth of the bet")
    wealth.set_xlabel("hours since the trace began")
    for axes in (shares, wealth):
        for start, end in _pauses(result.curve):
            axes.axvspan(start, end, color=_SHADE, linewidth=0)
        axes.axvline(result.virtual_s / 3600, color=_END, linewidth=1)
        axes.grid(visible=True, linewidth=0.3)
    shares.plot([], [], color=_SHADE, linewidth=6, label="bad weather or blind: paused")
    shares.plot(
        [], [], color=_END, linewidth=1, label=f"{result.verdict}, {result.bricked} devices lost to the release"
    )
    shares.legend(loc="upper left", fontsize=8)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as exc:
        raise InvalidInputError(f"cannot write {path}: {exc}") from exc


def _pauses(curve: Sequence[Point]) -> list[tuple[float, float]]:
    """When the campaign was paused somewhere, in hours."""
    spans: list[tuple[float, float]] = []
    for before, point in pairwise(curve):
        if point.is_paused:
            start, end = before.virtual_s / 3600, point.virtual_s / 3600
            if spans and spans[-1][1] == start:
                start = spans.pop()[0]
            spans.append((start, end))
    return spans
