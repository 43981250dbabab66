"""A run's report: text, JSON, JUnit XML, and one HTML file that needs nothing beside it."""

import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

from device_sim.scenario.expectations import Finding
from device_sim.scenario.outcome import CampaignOutcome, Outcome
from device_sim.scenario.report_plot import course_svg

_COUNTS: Final = ("updated", "confirmed", "failed", "reverted", "silent", "bricked")
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ccc}"
    ".held{color:#060}.not{color:#b00;font-weight:bold}svg{max-width:100%;height:auto}"
)


def as_text(outcome: Outcome, findings: Sequence[Finding]) -> str:
    """Return the report as text, without a last line break."""
    return "\n".join(_lines(outcome, findings))


def as_json(outcome: Outcome, findings: Sequence[Finding]) -> str:
    """Return the report as JSON."""
    return json.dumps(document(outcome, findings), indent=2) + "\n"


def document(outcome: Outcome, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the report as what JSON can say."""
    campaigns = [asdict(campaign) for campaign in outcome.campaigns]
    course = [asdict(moment) for moment in outcome.course]
    parts = {name: getattr(outcome, name) for name in ("scenario", "story", "mode", "devices", "seed", "speed")}
    figures = {"digest": outcome.digest, "fleet_s": outcome.fleet_s, "real_s": outcome.real_s}
    expected = [asdict(finding) for finding in findings]
    held = all(finding.held for finding in findings)
    return {**parts, **figures, "held": held, "expected": expected, "campaigns": campaigns, "course": course}


def as_junit(outcome: Outcome, findings: Sequence[Finding]) -> str:
    """Return what was expected as JUnit XML: a test case for each expectation."""
    failures = sum(not finding.held for finding in findings)
    suite = ET.Element(
        "testsuite",
        name=f"{outcome.scenario} ({outcome.mode}, seed {outcome.seed})",
        tests=str(len(findings)),
        failures=str(failures),
        errors="0",
        time=f"{outcome.real_s:.1f}",
    )
    for finding in findings:
        case = ET.SubElement(suite, "testcase", classname=outcome.scenario, name=finding.name)
        if not finding.held:
            ET.SubElement(case, "failure", message=finding.sentence)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def as_html(outcome: Outcome, findings: Sequence[Finding]) -> str:
    """Return the report as one HTML page; with plots, where matplotlib is installed."""
    plot = course_svg(outcome) or "<p>Plots need <code>tidegate[plot]</code>.</p>"
    rows = "".join(
        f"<tr><td>{_escaped(finding.name)}</td><td class={'held' if finding.held else 'not'}>"
        f"{'held' if finding.held else 'did not hold'}</td><td>{_escaped(finding.sentence)}</td></tr>"
        for finding in findings
    )
    campaigns = "".join(_campaign_rows(campaign) for campaign in outcome.campaigns)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_escaped(outcome.scenario)}</title>"
        f"<style>{_STYLE}</style><h1>{_escaped(outcome.scenario)}</h1><p>{_escaped(outcome.story)}</p>"
        f"<p>{_escaped(_head(outcome))}</p><h2>Expected</h2><table>{rows}</table>"
        f"<h2>Campaigns</h2><table>{campaigns}</table><h2>Course</h2>{plot}"
        f"<p>Digest <code>{_escaped(outcome.digest)}</code></p></html>\n"
    )


def write_report(folder: Path, outcome: Outcome, findings: Sequence[Finding]) -> None:
    """Write ``report.txt``, ``report.json`` and ``report.html``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.txt").write_text(as_text(outcome, findings) + "\n", encoding="utf-8")
    (folder / "report.json").write_text(as_json(outcome, findings), encoding="utf-8")
    (folder / "report.html").write_text(as_html(outcome, findings), encoding="utf-8")


def _lines(outcome: Outcome, findings: Sequence[Finding]) -> Iterator[str]:
    yield f"{outcome.scenario}: {outcome.story}"
    yield _head(outcome)
    for campaign in outcome.campaigns:
        yield f"  {campaign.release}: {campaign.state}" + (f". {campaign.sentence}" if campaign.sentence else "")
        yield f"    {_counts(campaign)}"
        if campaign.reasons:
            given = ", ".join(f"{name} {count}" for name, count in sorted(campaign.reasons.items()))
            yield f"    reasons: {given}"
    for finding in findings:
        yield f"{'held' if finding.held else 'DID NOT HOLD'}: {finding.name}: {finding.sentence}"
    if not findings:
        yield "nothing was expected"


def _head(outcome: Outcome) -> str:
    speed = "" if outcome.speed is None else f", {outcome.speed:g} times faster than the clock"
    lived = f"{outcome.fleet_s / 3600:.1f} h of the fleet in {outcome.real_s:.0f} s"
    return f"{outcome.devices} devices, seed {outcome.seed}, {outcome.mode}{speed}: {lived}"


def _counts(campaign: CampaignOutcome) -> str:
    counts = ", ".join(f"{getattr(campaign, name)} {name}" for name in _COUNTS)
    if campaign.stopped_at is None:
        return counts
    why = f" ({campaign.rule})" if campaign.rule else ""
    at = f"after {campaign.stopped_at / 3600:.2f} h, when {campaign.updated_at_stop} had rebooted into it"
    return f"{counts}; stopped by the {campaign.stopped_by}{why} {at}"


def _campaign_rows(campaign: CampaignOutcome) -> str:
    return (
        f"<tr><th>{_escaped(campaign.release)}</th><td>{_escaped(campaign.state)}</td>"
        f"<td>{_escaped(_counts(campaign))}</td></tr><tr><td></td><td colspan=2>{_escaped(campaign.sentence)}</td></tr>"
    )


def _escaped(text: str) -> str:
    return html.escape(text)
