"""How a run went, as a picture in SVG that stands inside a page."""

from io import StringIO
from typing import Final

from device_sim.scenario.outcome import Outcome

_SIZE: Final = (9.0, 4.5)
_CURVES: Final = (
    ("online", "on line", "#999999"),
    ("updated", "rebooted into it", "#2c6fbb"),
    ("confirmed", "confirmed", "#2e8b57"),
    ("reverted", "went back", "#d98c00"),
    ("bricked", "lost", "#c0392b"),
)


def course_svg(outcome: Outcome) -> str | None:
    """Return the picture; None where matplotlib is not installed, or there is nothing to show."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - the extra [plot]
    except ImportError:
        return None
    if not outcome.course:
        return None
    hours = [moment.at / 3600 for moment in outcome.course]
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    for name, label, colour in _CURVES:
        axes.step(hours, [getattr(moment, name) for moment in outcome.course], where="post", color=colour, label=label)
    for campaign in outcome.campaigns:
        if campaign.stopped_at is not None:
            axes.axvline(campaign.stopped_at / 3600, color="#222222", linewidth=1)
    axes.set_xlabel("hours of the fleet")
    axes.set_ylabel("devices")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", frameon=False)
    axes.grid(visible=True, linewidth=0.3)
    written = StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    text = written.getvalue()
    return text[text.index("<svg") :]
