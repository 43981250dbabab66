"""Status documents that a scenario needs: one that takes a release back, one that soon holds no longer."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from firmware_store.bundle import read_envelope
from firmware_store.documents import Kind, seal
from firmware_store.errors import NotFoundError
from firmware_store.keys import load_key
from firmware_store.root import ROOT_FILE, RoleName, key_file, open_root
from firmware_store.status import Status, read_status
from firmware_store.suit import open_envelope
from server.cli.client import Client

VALID_S: Final = 7 * 86_400


async def revoke(client: Client, keys: Path, bundle: Path) -> None:
    """Take a bundle's release back."""
    digest = open_envelope(read_envelope(bundle)).digest
    await _publish(client, keys, valid_s=VALID_S, revoked=frozenset({digest}))


async def let_expire(client: Client, keys: Path, *, within_s: int) -> None:
    """Publish a status that holds so many seconds longer: from then on nothing may start."""
    await _publish(client, keys, valid_s=within_s, revoked=frozenset())


async def _publish(client: Client, keys: Path, *, valid_s: int, revoked: frozenset[bytes]) -> None:
    root = open_root((keys / ROOT_FILE).read_bytes(), now=None)
    try:
        before = read_status(await client.get_bytes("/v1/trust/status")).version
    except NotFoundError:
        before = 0
    now = int(time.time())
    status = Status(
        version=before + 1,
        issued=now,
        expires=now + valid_s,
        fleet=root.fleet,
        epoch=root.roles[RoleName.STATUS].epoch,
        revoked_digests=revoked,
    )
    sealed = seal(Kind.STATUS, status.payload(), [load_key(key_file(keys, RoleName.STATUS), None)])

    async def pieces() -> AsyncIterator[bytes]:
        yield sealed

    await client.upload_pieces("/v1/trust/status", pieces(), Kind.STATUS.media_type)
