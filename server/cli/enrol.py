"""The device's side of enrolment and renewal: what a gateway runs, and what shows others how it is done."""

import sys
from base64 import b64decode
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from device_sim.gateway.device_folder import KEY_FILE, NEXT_KEY_FILE, DeviceFolder, as_text, make_request
from firmware_store.errors import AuthenticationError, ConfigurationError, ConflictError
from firmware_store.keys import Algorithm, SigningKey
from server.cli.client import Client, call
from server.domain.identity import DeviceId
from server.protocol.renewal import prove_renewal

_HERE: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def enrol_device(
    device: DeviceId, claim: str, out: Path, *, server: str, algorithm: Algorithm, allow_http: bool
) -> DeviceFolder:
    """Make a key, ask for a certificate with the claim, and write everything into ``out``.

    The key is written first. If the answer is lost on the way, doing it again finds the key enrolled, and renews.

    Raises:
        ConflictError: the folder is enrolled already; the server has no CA.
        AuthenticationError: the claim is not good.
        ConfigurationError: the folder cannot be used, or the way to the server is open to everybody.
    """
    _check_channel(server, allow_http=allow_http)
    folder = DeviceFolder(out)
    if folder.is_enrolled:
        raise ConflictError(f"{out} is enrolled already: renew it, or choose another folder")
    earlier = folder.key
    key = earlier or folder.make_key(KEY_FILE, algorithm)
    body = {"device": device, "csr": as_text(make_request(key))}
    try:
        answer = call(server, claim, lambda client: client.post("/v1/enrol", body))
    except AuthenticationError:
        if earlier is None:
            raise
        print("The claim is not good; trying to renew with the key of an earlier try.", file=sys.stderr)
        answer = _ask_again(server, device, old=key, new=key)
    folder.keep(answer)
    return folder


def renew_device(out: Path, *, server: str, allow_http: bool) -> DeviceFolder:
    """Ask for the next certificate, with a new key, and put both in the place of the old ones.

    Raises:
        ConfigurationError: the folder is not enrolled, or damaged, or the way to the server is open to everybody.
        AuthenticationError: the device is revoked, or its certificate has expired: it needs a claim.
    """
    _check_channel(server, allow_http=allow_http)
    folder = DeviceFolder(out)
    old = folder.key
    if old is None or not folder.is_enrolled:
        raise ConfigurationError(f"{out} is not enrolled")
    new = folder.next_key or folder.make_key(NEXT_KEY_FILE, old.public.algorithm)
    folder.keep(_ask_again(server, DeviceId(folder.identity["device"]), old=old, new=new))
    return folder


def _ask_again(server: str, device: DeviceId, *, old: SigningKey, new: SigningKey) -> dict[str, Any]:
    csr = make_request(new)

    async def ask(client: Client) -> dict[str, Any]:
        nonce = (await client.post("/v1/enrol/nonce", {}))["nonce"]
        proof = prove_renewal(old, device, csr, b64decode(nonce))
        body = {"device": device, "csr": as_text(csr), "nonce": nonce, "proof": as_text(proof)}
        answer: dict[str, Any] = await client.post("/v1/enrol/renew", body)
        return answer

    return call(server, None, ask)


def _check_channel(server: str, *, allow_http: bool) -> None:
    """The claim, the broker's password and the trust root come this way."""
    parts = urlsplit(server)
    if parts.scheme != "https" and parts.hostname not in _HERE and not allow_http:
        raise ConfigurationError(f"anybody on the way could read and change what {server} says: use https")
