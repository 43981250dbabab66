"""The command line. Only what a command needs is imported, when it runs: ``--help`` stays quick.

Exit codes: 0 done, 1 error, 2 usage, 3 not found, 4 conflict, 5 campaign halted, 6 not allowed.
"""

import os
import sys
from typing import Final

from cyclopts import App

OK: Final = 0
ERROR: Final = 1
NOT_FOUND: Final = 3
CONFLICT: Final = 4
HALTED: Final = 5
NOT_ALLOWED: Final = 6

app = App(
    name="tidegate",
    help="Over-the-air updates for device fleets: signed bundles, staged rollouts, and a gate that shuts by itself.",
    help_epilogue="`tidegate --context NAME COMMAND` works with the server that `tidegate context add` has named so.",
)
app.command("server.cli.demo:demo", name="demo", help="Roll a good release out, then watch a bad one halt by itself.")
app.command("server.cli.drill:app", name="drill", help="See what a thief of the server, or of a key, gets.")
app.command("server.cli.serve:serve", name="serve", help="Run the server.")
app.command("server.cli.database:app", name="db", help="Bring a database's schema up to date.")
app.command("server.cli.backup:backup", name="backup", help="Write the database and the blobs to a folder or a file.")
app.command("server.cli.backup:restore", name="restore", help="Bring a backup back, while no server runs.")
app.command("server.cli.keys:app", name="keys", help="Make and look at keys.")
app.command("server.cli.root:app", name="root", help="Make, sign and check the trust root.")
app.command("server.cli.status:app", name="status", help="Revoke releases and keys, raise floors.")
app.command("server.cli.bundle:app", name="bundle", help="Build, sign, verify and upload bundles.")
app.command("server.cli.device:app", name="device", help="Add devices and look at them.")
app.command("server.cli.places:regions", name="region", help="Count devices by region.")
app.command("server.cli.places:cohorts", name="cohort", help="Count devices by cohort.")
app.command("server.cli.campaign:app", name="campaign", help="Create, start, watch and stop campaigns.")
app.command("server.cli.apply:apply", name="apply", help="Make a file's campaign so; a second time changes nothing.")
app.command("server.cli.policy:app", name="policy", help="Keep policies under names.")
app.command("server.cli.context:app", name="context", help="Keep servers and tokens under names.")
app.command("server.cli.completion:completion", name="completion", help="Print what makes a shell complete commands.")
app.command("server.cli.halt:app", name="halt", help="Try the halt rule on recorded or generated fleets.")
app.command("server.cli.freeze:app", name="freeze", help="Say when campaigns must stand still.")
app.command("server.cli.store:app", name="store", help="Verify the blobs, and clear those that nobody needs.")
app.command("server.cli.webhook:app", name="webhook", help="Have events delivered elsewhere.")
app.command("server.cli.events:app", name="events", help="Hear what happens.")
app.command("server.cli.audit:app", name="audit", help="See who has changed what.")
app.command("server.cli.token:app", name="token", help="Make API tokens.")
app.command("server.cli.doctor:doctor", name="doctor", help="Look at a server from the outside: what is wrong?")
app.command("server.cli.agent:app", name="agent", help="Update this device.")
app.command("server.cli.conformance:conformance", name="conformance", help="Try the protocol's rules on a device.")
app.command("device_sim.cli:app", name="sim", help="Play scenarios, and run simulated devices.")


def main() -> None:
    """Run one command and exit with its code."""
    from firmware_store.errors import TidegateError
    from server.cli.contexts import enter

    try:
        code = app(enter(sys.argv[1:], os.environ))
    except* TidegateError as group:
        code = _explain(group)
    except* KeyboardInterrupt:
        code = 130
    sys.exit(code if isinstance(code, int) else OK)


def _explain(group: BaseExceptionGroup[BaseException]) -> int:
    """Say on standard error what went wrong, and return the exit code of the first error."""
    from firmware_store import errors

    codes = (
        (errors.NotFoundError, NOT_FOUND),
        (errors.ConflictError, CONFLICT),
        (errors.AuthenticationError, NOT_ALLOWED),
        (errors.ForbiddenError, NOT_ALLOWED),
        (errors.TidegateError, ERROR),
    )
    found = []
    for exc in _leaves(group):
        print(f"tidegate: {exc}", file=sys.stderr)
        found.append(next((code for family, code in codes if isinstance(exc, family)), ERROR))
    return found[0]


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for exc in group.exceptions:
        leaves += _leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc]
    return leaves
