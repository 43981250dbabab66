"""One sentence a tired engineer understands, for each thing the rule can conclude."""

from collections.abc import Sequence
from typing import Final

from server.domain.halt.policy import HaltPolicy
from server.domain.halt.wealth import Process

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


def span(seconds: float) -> str:
    """Return a duration as people say it: ``15 min``, ``2 h``, ``40 s``."""
    if seconds < 2 * _MINUTE_S and seconds % _MINUTE_S:
        return f"{seconds:g} s"
    if seconds < 2 * _HOUR_S or seconds % _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    return f"{seconds / _HOUR_S:g} h"


def scope_name(scope: int, classes: tuple[str, ...], regions: tuple[str, ...]) -> str:
    """Return a scope by its name: ``fleet``, ``hardware rev-c`` or ``region eu-west``."""
    if scope == 0:
        return "fleet"
    if scope <= len(classes):
        return f"hardware {classes[scope - 1]}"
    return f"region {regions[scope - 1 - len(classes)]}"


def compare(process: Process, scope: str, tally: Sequence[int], policy: HaltPolicy, *, devices: int) -> str:
    """Return what happened to the updated devices of a scope, and what to those they were compared with.

    ``tally``: updated, silent of them, controls, silent of them; ``devices``: how many the scope has. A device serves
    as a control more than once, and what has come back is looked at again and again: then these are looks.
    """
    updated, silent, controls, control_silent = tally
    where = _where(scope)
    looks_again = process not in {Process.G1, Process.G2, Process.G1_ASLEEP, Process.G2_ASLEEP}
    whom = f"{silent:,} of {updated:,} updated devices{where}"
    if looks_again:
        whom = f"{silent:,} updated devices{where} (in {updated:,} looks)"
    did = {
        Process.G1: f"went dark within {span(policy.g1_s)} of their reboot",
        Process.G2: f"were still dark {span(policy.g2_s)} after their reboot",
        Process.STALL: "went dark before their reboot, after they had begun",
        Process.STAY_FIRST_HOUR: f"went dark for {span(policy.stay_s)} in the hour after they had come back",
        Process.STAY_FOUR_HOURS: f"went dark for {span(policy.stay_s)}, one to four hours after their reboot",
        Process.STAY_LATER: f"went dark for {span(policy.stay_s)}, more than four hours after their reboot",
        Process.FLAP_FIRST_HOUR: _flapped(policy) + " in the first hour after their reboot",
        Process.FLAP_FOUR_HOURS: _flapped(policy) + " one to four hours after their reboot",
        Process.FLAP_LATER: _flapped(policy) + " more than four hours after their reboot",
        Process.G1_ASLEEP: f"that sleep missed their wakes for {policy.wakes} intervals after their reboot",
        Process.G2_ASLEEP: f"that sleep missed their wakes for {policy.wakes} intervals and "
        f"{span(policy.g2_s)} after their reboot",
    }[process]
    did_too = "none did" if control_silent == 0 else f"{control_silent:,} did"
    others = "looks at comparable devices" if looks_again or controls > devices else "comparable devices"
    return f"{whom} {did}; of {controls:,} {others} not yet updated, {did_too}."


def explicit(failed: int, succeeded: int, policy: HaltPolicy) -> str:
    """Return what the devices said themselves."""
    return (
        f"{failed:,} of {failed + succeeded:,} updated devices reported that the release failed; "
        f"{policy.explicit_ratio:.1%} are tolerated."
    )


def rail(which: str, *, silent: int, judged: int, expected: float, policy: HaltPolicy) -> str:
    """Return which guard rail was reached; ``which`` as `rails.check` names it."""
    if which == "excess":
        return (
            f"{silent:,} of {judged:,} updated devices were still dark {span(policy.g2_s)} after their reboot, "
            f"where their neighbours explain {expected:,.0f}: a guard rail, whatever the odds."
        )
    if which == "small":
        return (
            f"{silent:,} of {judged:,} updated devices of a small fleet went dark "
            f"within {span(policy.g1_s)} of their reboot."
        )
    if which == "flapping":
        return (
            f"{silent:,} of {judged:,} updated devices {_flapped(policy)}, and there was nothing to compare them with."
        )
    return (
        f"{silent:,} of {judged:,} updated devices went dark within {span(policy.g1_s)} of their reboot, "
        "and there was nothing to compare them with."
    )


def late(silent: int, watched: int, expected: float) -> str:
    """Return what the updated devices did without controls, against their own history."""
    return (
        f"{silent:,} updated devices went dark in {watched:,} windows watched after the last control was updated, "
        f"where their own history explains {expected:,.1f}."
    )


def budget(used_s: float, sentence: str) -> str:
    """Return why braking ends in a hold."""
    braked = f"The campaign has braked for {span(used_s // _MINUTE_S * _MINUTE_S)} in all and the odds stay high"
    return f"{braked}: {sentence}" if sentence else f"{braked}."


def _where(scope: str) -> str:
    kind, _, name = scope.partition(" ")
    return {"fleet": "", "hardware": f" with hardware {name}", "region": f" in {name}"}[kind]


def _flapped(policy: HaltPolicy) -> str:
    return f"lost {policy.flap_drops} or more sessions within {span(policy.flap_window_s)}"
