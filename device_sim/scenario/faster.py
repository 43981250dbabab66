"""Plans and policies on a faster clock, as the API takes them (pure)."""

from typing import Final

from server.domain.plan import Plan, Policy

_SHORTEST_DOWNLOAD_S: Final = 60
"""What a real download over a real line needs, however fast the fleet lives."""
_SHORTEST_ROLLBACK_S: Final = 60
_SHORTEST_QUARANTINE_S: Final = 60


def faster_plan(plan: Plan, speed: float) -> Plan:
    """Return the plan of a fleet that lives ``speed`` times faster than the clock (> 0)."""
    waves = [
        wave.model_copy(update={"ramp_s": round(wave.ramp_s / speed), "soak_s": round(wave.soak_s / speed)})
        for wave in plan.waves
    ]
    return Plan(waves=tuple(waves))


def faster_policy(policy: Policy, speed: float) -> Policy:
    """Return the policy likewise. An offer is as long valid as it was: it is renewed by itself."""
    shortest = {
        "trial_s": 0,
        "confirm_s": 1,
        "watch_s": 0,
        "download_s": _SHORTEST_DOWNLOAD_S,
        "rollback_s": _SHORTEST_ROLLBACK_S,
        "quarantine_s": _SHORTEST_QUARANTINE_S,
    }
    times = {name: max(least, round(getattr(policy, name) / speed)) for name, least in shortest.items()}
    rate = round(policy.region_bytes_per_s_most * speed)
    halt = policy.halt.scaled(1 / speed)
    faster = policy.model_copy(update={"halt": halt, "region_bytes_per_s_most": rate, **times})
    return Policy.model_validate(faster.model_dump())
