"""The rule's state as bytes: arrays in NumPy's format, the rest as JSON, all of it compressed; nothing executable."""

import io
import json
import zlib
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from server.domain.halt.rule import HaltRule

HALT_FIELDS: Final = (
    "wealth",
    "channel",
    "scope",
    "why",
    "judged",
    "silent",
    "controls",
    "control_silent",
    "evidence",
)
"""What a halt concluded stays, whatever comes after it."""

_VERSION: Final = 3
_META: Final = "meta"
_PLAIN: Final = ("now", "started", "halted", "sleepers_judged", "sleepers_expected")
_ARRAYS: Final = ("judged", "expected", "bare_silent", "late_silent", "run_silent")


def dump(rule: "HaltRule") -> bytes:
    """Return the state of ``rule``."""
    meta: dict[str, Any] = {"version": _VERSION, "rule": {name: getattr(rule, name) for name in _PLAIN}}
    arrays: dict[str, Any] = {f"rule.{name}": getattr(rule, name) for name in _ARRAYS}
    for part, value in _parts(rule).items():
        meta[part] = {}
        for each in fields(value):
            item = getattr(value, each.name)
            if isinstance(item, np.ndarray):
                arrays[f"{part}.{each.name}"] = np.packbits(item) if item.dtype == np.bool_ else item
                if item.dtype == np.bool_:
                    meta[part][f"{each.name}.bits"] = len(item)
            elif isinstance(item, bool | int | float):
                meta[part][each.name] = item
    out = io.BytesIO()
    arrays[_META] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    np.savez(out, **arrays)
    return zlib.compress(out.getvalue(), level=1)


def load(rule: "HaltRule", data: bytes) -> None:
    """Put the state into ``rule``, which is new.

    Raises:
        ValueError: the bytes are no dump of this version, or of a larger population.
    """
    try:
        with np.load(io.BytesIO(zlib.decompress(data)), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays[_META].tobytes())
    except (zlib.error, OSError, EOFError, KeyError, ValueError) as exc:
        raise ValueError("These bytes are no state of the halt rule.") from exc
    if meta.get("version") != _VERSION:
        raise ValueError("This state of the halt rule is of another version.")
    if len(arrays["roster.status"]) > len(rule.population):
        raise ValueError("This state of the halt rule knows more devices than there are.")
    for name in _PLAIN:
        setattr(rule, name, meta["rule"][name])
    for name in _ARRAYS:
        setattr(rule, name, arrays[f"rule.{name}"])
    for part, value in _parts(rule).items():
        for each in fields(value):
            key = f"{part}.{each.name}"
            if f"{each.name}.bits" in meta[part]:
                bits = np.unpackbits(arrays[key], count=meta[part][f"{each.name}.bits"])
                setattr(value, each.name, bits.astype(np.bool_))
            elif key in arrays:
                setattr(value, each.name, arrays[key])
            elif each.name in meta[part]:
                setattr(value, each.name, meta[part][each.name])


def _parts(rule: "HaltRule") -> dict[str, Any]:
    """Return the parts whose fields are the state, by name."""
    return {
        "roster": rule.roster,
        "trials": rule.trials,
        "ledger": rule.trials.ledger,
        "weather": rule.weather,
        "wealth": rule.wealth,
        "rates": rule.rates,
        "explicit": rule.explicit,
        "rails": rule.rails,
        "brake": rule.brake,
        "late": rule.late,
        "windows": rule.windows,
    }
