"""What a session shows: its hello, its beats, and whose welcome it believes."""

from collections.abc import Callable
from itertools import pairwise
from typing import Final

from device_sim.conformance.examiner import HEARTBEAT_S, Examiner
from device_sim.conformance.rules import Sheet

SLOWER_S: Final = 600
"""What no device may be told by a welcome that is none."""

_WAIT_S: Final = 6 * HEARTBEAT_S
_SLACK_S: Final = 0.5
"""By which a broker and a busy machine may be late."""


async def check_session(examiner: Examiner, sheet: Sheet, *, patience_s: float) -> bool:
    """Wait for the device, and bring its session up; False: there is nothing more to try."""
    if not await examiner.until(lambda: bool(examiner.hellos or examiner.unreadable), within_s=patience_s):
        return sheet.note("session.hello", False, f"none within {patience_s:.0f} s: let the device connect anew")
    if not examiner.hellos:
        return sheet.note("session.hello", False, examiner.unreadable[0])
    hello = examiner.hellos[-1]
    sheet.note("session.hello", True, f"{hello.vendor} {hello.hardware}, agent {hello.agent_version}")
    if hello.root_version != examiner.keys.root.version:
        sheet.why_not = f"it holds root {hello.root_version}, and the root here is {examiner.keys.root.version}"
        return False
    examiner.welcome()
    examiner.greets = True
    if not await _beats(examiner, sheet):
        sheet.why_not = "without beats nothing shows what it has taken"
        return False
    await _believes_no_other(examiner, sheet)
    return True


async def _beats(examiner: Examiner, sheet: Sheet) -> bool:
    """Note whether four beats come in time; False: they do not come at all."""
    begun = len(examiner.beats)
    if not await examiner.until(lambda: len(examiner.beats) >= begun + 4, within_s=_WAIT_S):
        came = len(examiner.beats) - begun
        return sheet.note("session.beat", False, f"{came} beats within {_WAIT_S} s, and one each second is wanted")
    beats = examiner.beats[begun : begun + 4]
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(beats)]
    is_in_time = all(0.9 * HEARTBEAT_S - _SLACK_S <= gap <= 1.1 * HEARTBEAT_S + _SLACK_S for gap in gaps)
    is_one = {beat.boot_id for _, beat in beats} == {examiner.hellos[-1].boot_id}
    seen = f"{', '.join(f'{gap:.1f}' for gap in gaps)} s apart"
    sheet.note("session.beat", is_in_time and is_one, seen if is_one else f"{seen}, of another boot than the hello's")
    return True


async def _believes_no_other(examiner: Examiner, sheet: Sheet) -> None:
    """Show it both forgeries at once; where it slows down, one after the other, to see which it was."""
    nonce = bytes(byte ^ 0xFF for byte in examiner.hellos[-1].nonce)
    forgeries: dict[str, Callable[[], None]] = {
        "session.welcome-of-another": lambda: examiner.welcome(nonce=nonce, heartbeat_s=SLOWER_S),
        "session.welcome-signature": lambda: examiner.welcome(signer=examiner.keys.directive, heartbeat_s=SLOWER_S),
    }
    for show in forgeries.values():
        show()
    if await examiner.beat():
        for rule in forgeries:
            sheet.note(rule, True, "it beats as before")
        return
    for rule, show in forgeries.items():
        examiner.welcome()
        if not await examiner.beat(1):
            sheet.skip(rule, "it does not beat any more")
            continue
        show()
        is_refused = await examiner.beat()
        sheet.note(rule, is_refused, "it beats as before" if is_refused else "it beats no more, as it was told")
    examiner.welcome()
    await examiner.beat(1)
