"""One good document of each kind, by the keys of ``tests.releases``."""

from dataclasses import replace
from hashlib import sha256
from uuid import UUID

from firmware_store.documents import Kind, seal
from firmware_store.keys import Kid
from firmware_store.release_record import Attachment, AttachmentKind, ReleaseRecord
from firmware_store.root import RoleName
from firmware_store.status import Status
from firmware_store.suit import read_manifest
from server.domain.gate import Ramp
from server.domain.identity import CampaignId, Cohort, DeviceId, Region
from server.protocol.messages import Counter
from server.protocol.orders import Action, Directive, Envelope, Welcome, directive_map, welcome_map
from server.protocol.topics import CohortAudience
from tests.releases import CLASS_1, CLASS_2, ROOT, SIGNERS, manifest

RELEASED = read_manifest(manifest())
NEXT_ROOT = replace(ROOT, version=2)
STATUS = Status(
    version=3,
    issued=ROOT.issued,
    expires=ROOT.issued + 7 * 86_400,
    fleet=ROOT.fleet,
    revoked_digests=frozenset({sha256(b"one").digest(), sha256(b"two").digest()}),
    revoked_kids=frozenset({Kid(b"key of the thief")}),
    floors={CLASS_1: 7, CLASS_2: 0},
)
RECORD = ReleaseRecord(
    RELEASED.digest,
    (
        Attachment.of(AttachmentKind.NOTES, "text/markdown", [b"# Quieter at slack water\n"]),
        Attachment.of(AttachmentKind.SBOM, "application/vnd.cyclonedx+json", [b'{"bomFormat":"CycloneDX"}']),
        Attachment.of(AttachmentKind.PROVENANCE, "application/vnd.in-toto+json", [b"{}"]),
    ),
)
DIRECTIVE = Directive(
    fleet=ROOT.fleet,
    audience=CohortAudience(Region("eu"), Cohort("main")),
    counter=Counter(1, 5),
    issued=ROOT.issued,
    expires=ROOT.issued + 86_400,
    action=Action.OFFER,
    campaign=CampaignId(UUID(int=7)),
    manifest_digest=RELEASED.digest,
    sequence_number=RELEASED.sequence_number,
    envelope=Envelope(sha256(b"envelope").digest(), 400),
    ramp=Ramp(ROOT.issued, 0, ROOT.issued + 3600, 1 << 31),
)
WELCOME = Welcome(
    fleet=ROOT.fleet,
    device=DeviceId("gauge-1"),
    nonce=b"nonce of session",
    server_time=ROOT.issued,
    cohort_counter=Counter(1, 5),
    device_counter=Counter(1, 0),
    region=Region("eu"),
    cohort=Cohort("main"),
    member_since=ROOT.issued,
    held=False,
    heartbeat_s=60,
)

SEALED = {
    Kind.ROOT: seal(Kind.ROOT, NEXT_ROOT.payload(), SIGNERS[RoleName.ROOT]),
    Kind.STATUS: seal(Kind.STATUS, STATUS.payload(), SIGNERS[RoleName.STATUS]),
    Kind.DIRECTIVE: seal(Kind.DIRECTIVE, directive_map(DIRECTIVE), SIGNERS[RoleName.DIRECTIVE]),
    Kind.WELCOME: seal(Kind.WELCOME, welcome_map(WELCOME), SIGNERS[RoleName.SESSION]),
    Kind.RELEASE_RECORD: seal(Kind.RELEASE_RECORD, RECORD.payload(), SIGNERS[RoleName.RELEASE]),
}
