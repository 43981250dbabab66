"""``tidegate device``: add devices, give them an identity, take it away, and look at them."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from server.cli.client import DEFAULT_URL, Token, Url, call
from server.cli.output import Format, show

app = App(name="device", help="Add, enrol and revoke devices, and look at them.")
app.command(ca := App(name="ca", help="The authority that signs devices' certificates."))

app.command("server.cli.inventory:export", name="export", help="Write devices as a table (CSV).")
app.command("server.cli.inventory:import_devices", name="import", help="Add the devices of a table (CSV).")
app.command("server.cli.inventory:drift", name="drift", help="List devices that do not run what they should.")
app.command("server.cli.change:edit", name="edit", help="Move a device, or change what people say of it.")
app.command("server.cli.change:change", name="change", help="Change all devices that a filter lets through.")
app.command("server.cli.change:app", name="operations", help="See and end changes of many devices.")
app.command(nats := App(name="nats", help="A NATS server of your own."))

AllowHttp = Annotated[bool, Parameter(help="Go over plain HTTP: whoever is on the way can become the device.")]

_COLUMNS = ("id", "region", "cohort", "online", "revoked", "held", "hardware", "running_version", "last_seen")
_HELD_COLUMNS = ("id", "held_until", "held_reason")
_MARKS = {"pass": "ok", "fail": "FAIL", "unknown": "?"}
_SLEEP_COLUMNS = ("id", "wake_interval_s", "asleep")


@app.command
def add(device: str, *, region: str, cohort: str, token: Token, server: Url = DEFAULT_URL) -> None:
    """Add a device and print its broker credential, as JSON: it is shown this once.

    Parameters
    ----------
    device
        Its id: 3 to 64 of a-z, 0-9, _ and -.
    region
        Where it is.
    cohort
        Which part of the fleet it belongs to.
    """
    body = {"devices": [{"id": device, "region": region, "cohort": cohort}]}
    answer = call(server, token, lambda client: client.post("/v1/devices", body))
    show(answer["devices"], (), "json")


@app.command
def ls(
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    region: str = "",
    cohort: str = "",
    filter: str = "",  # noqa: A002 - the option is --filter
    output: Format = "table",
) -> None:
    """List devices.

    Parameters
    ----------
    region
        Only those of this region.
    cohort
        Only those of this cohort.
    filter
        Only those that this lets through, such as "version < 1.10.0 AND labels.site:*" (docs/reference/filters.md).
    """
    given = (("region", region), ("cohort", cohort), ("filter", filter))
    only = {name: value for name, value in given if value}
    show(call(server, token, lambda client: client.get_all("/v1/devices", "devices", only)), _COLUMNS, output)


@app.command
def unseen(
    *,
    token: Token,
    server: Url = DEFAULT_URL,
    days: Annotated[int, Parameter(help="For so long.")] = 30,
    output: Format = "table",
) -> None:
    """List devices that were seen once, and have not been heard from for long."""
    only = {"filter": f"last_seen < now-{days}d"}
    show(call(server, token, lambda client: client.get_all("/v1/devices", "devices", only)), _COLUMNS, output)


@app.command(name="never-seen")
def never_seen(*, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """List devices that somebody has made a claim for, or given a credential, and that have never said hello."""
    only = {"filter": "claimed = true AND NOT last_seen:*"}
    show(call(server, token, lambda client: client.get_all("/v1/devices", "devices", only)), _COLUMNS, output)


@app.command(name="show")
def show_one(device: str, *, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """Show one device.

    Parameters
    ----------
    device
        Its id.
    """
    answer = call(server, token, lambda client: client.get(f"/v1/devices/{device}"))
    show([answer], _COLUMNS, output)
    more = (("held", _HELD_COLUMNS), ("wake_interval_s", _SLEEP_COLUMNS))
    for name, columns in more:
        if answer[name] and output == "table":
            print()
            show([answer], columns, output)


@app.command
def history(device: str, *, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """List how a device has come through the campaigns that reached it, the newest first.

    Parameters
    ----------
    device
        Its id.
    """
    only = {"filter": f'device = "{device}"'}
    rows = call(server, token, lambda client: client.get_all("/v1/executions", "executions", only))
    show(rows, ("campaign", "campaign_name", "state", "attempt", "reason", "detail", "updated_at"), output)


@app.command
def why(device: str, *, token: Token, server: Url = DEFAULT_URL, campaign: str = "", output: Format = "table") -> None:
    """Say why a device does not update: one sentence, then every check behind it and what would change it.

    Parameters
    ----------
    device
        Its id.
    campaign
        In this campaign (cmp_...); without it, in the one that is active where the device is, or was the last one.
    """
    only = {"campaign": campaign} if campaign else {}
    answer = call(server, token, lambda client: client.get(f"/v1/devices/{device}/why", **only))
    if output != "table":
        show([answer], (), output)
        return
    print(answer["sentence"], end="\n\n")
    for check in answer["checks"]:
        print(f"{_MARKS[check['outcome']]:4}  {check['name']:10}  {check['says']}")
        if check["changes"]:
            print(f"{'':18}-> {check['changes']}")


@app.command
def hold(
    device: str,
    *,
    reason: str,
    token: Token,
    server: Url = DEFAULT_URL,
    hours: Annotated[float | None, Parameter(help="For so long; without it, until it is released.")] = None,
    output: Format = "table",
) -> None:
    """Let a device start nothing: no campaign has it until the hold is over.

    Parameters
    ----------
    device
        Its id.
    reason
        Why; it is shown.
    """
    body = {"reason": reason, "for_seconds": None if hours is None else round(hours * 3600)}
    answer = call(server, token, lambda client: client.post(f"/v1/devices/{device}/hold", body))
    show([answer], _HELD_COLUMNS, output)


@app.command
def release(device: str, *, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """End a device's hold, whoever or whatever holds it; failures until now hold it no more.

    Parameters
    ----------
    device
        Its id.
    """
    show([call(server, token, lambda client: client.post(f"/v1/devices/{device}/release", {}))], _COLUMNS, output)


@app.command
def claim(device: str, *, token: Token, server: Url = DEFAULT_URL, valid_hours: int = 24) -> None:
    """Print a token with which the device enrols, once. It is shown this once; an earlier one is withdrawn.

    Parameters
    ----------
    device
        Its id.
    valid_hours
        How long there is to use it.
    """
    body = {"valid_seconds": valid_hours * 3600}
    print(call(server, token, lambda client: client.post(f"/v1/devices/{device}/claim", body))["claim"])


@app.command
def revoke(device: str, *, reason: str, token: Token, server: Url = DEFAULT_URL, output: Format = "table") -> None:
    """Refuse the device's certificates and credentials, and end its session. A new claim lets it in again.

    Parameters
    ----------
    device
        Its id.
    reason
        Why; it is kept.
    """
    import sys

    answer = call(server, token, lambda client: client.post(f"/v1/devices/{device}/revoke", {"reason": reason}))
    show([answer], ("device", "revoked_at", "session_ended"), output)
    if not answer["session_ended"]:
        print("Your broker learns of it when it reads the revocation list again (/v1/enrol/crl).", file=sys.stderr)


@app.command
def enrol(
    *,
    claim: Annotated[str, Parameter(env_var="TIDEGATE_CLAIM", help="The token that `device claim` has printed.")],
    id: str,  # noqa: A002 - the option is --id
    out: Path,
    server: Url = DEFAULT_URL,
    algorithm: Literal["esp256", "ed25519"] = "esp256",
    allow_http: AllowHttp = False,
) -> None:
    """On the device: make a key and turn a claim into a certificate. Can be repeated until it has worked.

    Parameters
    ----------
    id
        The device's id.
    out
        Where key, certificate, credential and trust root go, each readable by their owner alone. A root.cbor that is
        there already stays.
    algorithm
        The key's: P-256, which every broker's TLS knows, or Ed25519.
    """
    from firmware_store.keys import Algorithm
    from server.cli.enrol import enrol_device
    from server.domain.identity import device_id

    chosen = Algorithm[algorithm.upper()]
    device = device_id(id)
    _say_identity(enrol_device(device, claim, out, server=server, algorithm=chosen, allow_http=allow_http).identity)


@app.command
def renew(*, out: Path, server: Url = DEFAULT_URL, now: bool = False, allow_http: AllowHttp = False) -> None:
    """On the device: ask for the next certificate if two thirds of this one's life are over. Run it every day.

    Parameters
    ----------
    out
        The folder that `device enrol` has written.
    now
        Ask even if it is not due.
    """
    import sys

    from device_sim.gateway.device_folder import DeviceFolder
    from server.cli.enrol import renew_device

    folder = DeviceFolder(out)
    if not (now or folder.is_due()):
        print(f"Not due before {folder.identity['renew_at']:%Y-%m-%d %H:%M} UTC.", file=sys.stderr)
        return
    _say_identity(renew_device(out, server=server, allow_http=allow_http).identity)


@ca.command
def init(directory: Path, *, passphrase_file: Path | None = None, name: str = "Tidegate devices") -> None:
    """Make the authority: a key, encrypted, and its certificate, whose file is printed.

    In development the server makes one by itself.

    Parameters
    ----------
    directory
        The server's keys directory.
    passphrase_file
        Where the passphrase is, which must be the one of the server's other keys; without it, you are asked twice.
    name
        The certificate's common name.
    """
    import sys

    from server.cli.ask import new_passphrase
    from server.services.device_ca import CERTIFICATE_FILE, KEY_FILE, create_device_ca

    passphrase = new_passphrase(directory / KEY_FILE, passphrase_file)
    made = create_device_ca(directory, passphrase=passphrase, name=name)
    print(f"Good until {made.expires:%Y-%m-%d}. Brokers trust devices by this certificate:", file=sys.stderr)
    print(directory / CERTIFICATE_FILE)


@ca.command(name="show")
def show_ca(*, server: Url = DEFAULT_URL) -> None:
    """Print the authority's certificate in PEM, for a broker's list of those it trusts."""
    print(call(server, None, lambda client: client.get_bytes("/v1/enrol/ca")).decode(), end="")


@ca.command
def crl(*, server: Url = DEFAULT_URL) -> None:
    """Print the signed list of revoked certificates in PEM, for a broker that reads one."""
    print(call(server, None, lambda client: client.get_bytes("/v1/enrol/crl")).decode(), end="")


@nats.command(name="init")
def init_nats(directory: Path, *, topic_root: str = "tg/1") -> None:
    """Make the keys that a NATS of your own believes, and the part of its configuration that says so.

    Parameters
    ----------
    directory
        Where they go: keys.json, for Tidegate alone (TIDEGATE_NATS_DIR), and trust.conf, for NATS to include.
    topic_root
        The root of every MQTT topic (TIDEGATE_TOPIC_ROOT).
    """
    from server.embedded.own_nats import create_nats_folder
    from server.protocol.topics import Topics

    print(create_nats_folder(directory, Topics(topic_root).root))


def _say_identity(identity: dict[str, Any]) -> None:
    show([identity], ("device", "serial", "renew_at", "expires_at"), "table")
