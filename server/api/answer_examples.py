"""What answers look like, in the OpenAPI document: each model's members by their names, put together by its types.

A member of a model that has a default is that. What is no example by its name alone is said for one model.
"""

from collections.abc import Mapping
from types import MappingProxyType, UnionType
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from server.api.parameters import PATH

_AT: Final = "2026-03-02T08:00:00Z"
_LATER: Final = "2026-03-02T09:30:00Z"
_SHA256: Final = PATH["sha256"].example

NAMED: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "accepted": True,
        "actor": "ann",
        "agent_version": "0.1.0",
        "approvals_missing": 0,
        "at": _AT,
        "attempt": 1,
        "attempts": 0,
        "awaits": "",
        "begins_at": _AT,
        "blobs": 412,
        "booted_slot": "a",
        "broker": None,
        "bundle": PATH["bundle"].example,
        "bytes": 25_952_256,
        "campaign": PATH["campaign"].example,
        "campaign_name": "spring",
        "causes": [],
        "certificate": "-----BEGIN CERTIFICATE-----\nMIIB...\n-----END CERTIFICATE-----\n",
        "changes": "nothing: it is so",
        "claim": "tgc_q1Zr8Vd2mK7xT0bYw3sLhF",
        "class_ids": ["6f7c9a3e5d2b51c8a0b41f2e3d4c5b6a"],
        "codec": "zstd",
        "cohort": "main",
        "component": "app",
        "components": {"app": 25_952_256},
        "confirmed": 180,
        "control_silent": 1,
        "controls": 1800,
        "created_at": _AT,
        "created_by": "ann",
        "cursor": 1024,
        "decision": None,
        "detail": "",
        "device": PATH["device"].example,
        "devices": 2000,
        "digest": _SHA256,
        "document": "status",
        "done": 240,
        "drifting": 12,
        "duration_s": 14_400,
        "eligible": 2000,
        "eligible_online": 1940,
        "emergency": "",
        "epoch": 1,
        "event": "cmp_019aabbe2c3d7b12845d6e7f80910213",
        "evidence": {"silent": 0, "judged": 182},
        "expires_at": "2027-03-02T08:00:00Z",
        "failed": 2,
        "filter": "region = eu",
        "format": "standard",
        "halted": [],
        "hardware": "gw100-rev-b",
        "held": False,
        "held_reason": "",
        "in_flight": 18,
        "is_enabled": True,
        "is_good": True,
        "is_new": True,
        "issued_at": _AT,
        "judged": 182,
        "kind": "open_wave",
        "labels": {"site": "bremen"},
        "last_seen": _AT,
        "last_used_at": _AT,
        "level": 0.1,
        "manifest_digest": _SHA256,
        "manual": False,
        "member_since": _AT,
        "membership": "dynamic",
        "milliseconds": 84,
        "missing": [_SHA256],
        "name": "spring",
        "needed_seconds": 2700.0,
        "never_seen": 3,
        "next": None,
        "nonce": "c29tZSByYW5kb20gYnl0ZXMuLi4=",
        "number": 1,
        "object": PATH["campaign"].example,
        "ok": True,
        "online": True,
        "opens": "0 2 * * *",
        "opens_at": _AT,
        "operator_labels": {"site": "bremen"},
        "otherwise_bytes": 25_952_256,
        "plan_hash": _SHA256,
        "policy_from": "careful@1",
        "previous": _SHA256,
        "proposed_at": _AT,
        "published_blobs": 412,
        "published_bytes": 25_952_256,
        "ramp_s": 3600,
        "reached": 200,
        "ready": True,
        "reason": "the spring release",
        "reboots_waiting": 0,
        "refused": 0,
        "region": "eu",
        "regions": ["eu"],
        "renew_at": "2026-11-02T08:00:00Z",
        "request_id": "8d1f0a3c5b7e9246",
        "revision": 7,
        "revoked_at": None,
        "rights": ["read", "operate"],
        "risen_at": _LATER,
        "role": "operator",
        "root": _SHA256,
        "run": 1,
        "running_version": "1.4.0",
        "runs": "1.4.0",
        "sample": [PATH["device"].example],
        "says": "The campaign is running.",
        "secret": "whsec_c29tZSByYW5kb20gYnl0ZXMuLi4=",
        "sentence": "Wave 1 of 2 opens: eu to 10.0%.",
        "seq": 57,
        "sequence": 1024,
        "sequence_number": 1_740_902_400,
        "serial": "4f3c2b1a09",
        "should_run": "1.5.0",
        "signers": ["0f1e2d3c4b5a69788796a5b4c3d2e1f0"],
        "silent": 0,
        "size_bytes": 25_987_140,
        "slot": "b",
        "soak_s": 1800,
        "source_version": "1.4.0",
        "started_at": _AT,
        "states": {"confirmed": 180, "downloading": 18, "failed": 2},
        "target": "10.0%",
        "text": "answers",
        "through_at": "2026-03-02T10:00:00Z",
        "ticket": "tk_AZquvkPt9A...",
        "token": "5f0c1a2b",
        "total": 240,
        "type": "campaign.halted",
        "types": [],
        "updated_at": _AT,
        "url": "https://hooks.example/tidegate",
        "valid_seconds": 3600,
        "vendor_id": "3f1d2c4b5a69587788a9b0c1d2e3f405",
        "version": "1.5.0",
        "versions": {"1.4.0": 1800, "1.5.0": 200},
        "waiting": 0,
        "waits_for": ["the soak of wave 1, until 2026-03-02 10:00 UTC"],
        "warnings": [],
        "wave": 1,
        "weather": "good",
        "what": "campaign.start",
        "who": "ann",
        "why": "",
        "why_not": "",
        "zone": "Europe/Berlin",
    }
)
"""What a member looks like in every model that has it."""

OF: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "AuditRow.after": {"state": "running"},
        "AuditRow.before": {"state": "draft"},
        "AuditRow.evidence": None,
        "BundleView.id": PATH["bundle"].example,
        "CampaignView.id": PATH["campaign"].example,
        "CampaignView.state": "running",
        "Change.labels": {"site": "bremen"},
        "Check.name": "database",
        "CheckView.at": None,
        "CheckView.name": "campaign",
        "CheckView.outcome": "pass",
        "ClaimCreated.expires_at": "2026-03-09T08:00:00Z",
        "DeliveryView.id": 271_828,
        "DeliveryView.outcome": "delivered",
        "DeliveryView.status": 204,
        "DeltaView.bytes": 3_145_728,
        "DeltaView.state": "offered",
        "DeviceAdded.id": PATH["device"].example,
        "DeviceView.id": PATH["device"].example,
        "ExecutionView.reason": "",
        "ExecutionView.state": "confirmed",
        "ExplanationView.next": "wave 2 opens, if its gate holds",
        "ExplanationView.next_at": _LATER,
        "ExplanationView.state": "running",
        "FreezeView.ends": "2026-03-31T18:00:00",
        "FreezeView.id": PATH["freeze"].example,
        "FreezeView.is_over_at": "2026-03-31T16:00:00Z",
        "FreezeView.reason": "the end of the quarter",
        "FreezeView.starts": "2026-03-02T09:00:00",
        "Imported.devices": 2,
        "Me.name": "ann",
        "OpeningView.opens_at": [_LATER],
        "OpeningView.utc_offset_minutes": 60,
        "OperationError.detail": "There is no device gw-17 any more.",
        "OperationView.id": PATH["operation"].example,
        "OperationView.reason": "a move",
        "OperationView.state": "done",
        "PlaceView.name": "eu",
        "PolicyView.name": PATH["policy"].example,
        "PolicyView.version": 1,
        "PublicationView.transport": "mqtt",
        "RegionState.target": 0.1,
        "Revocation.revoked_at": _AT,
        "RevocationView.id": PATH["revocation"].example,
        "RevocationView.reason": None,
        "RevocationView.sentence": "Halted by the halt rule: 9 of 40 updated devices fell silent.",
        "RevocationView.state": "proposed",
        "RootAccepted.version": 3,
        "StatusAccepted.version": 3,
        "TokenCreated.token": "tg_5f0c1a2b_mK7xT0bYw3sLhFq1Zr8Vd2",
        "TokenView.id": PATH["token_id"].example,
        "TokenView.name": "night shift",
        "TrustEvent.sentence": "Status 3 holds from now on.",
        "Wave.ratio": 0.1,
        "WaveState.state": "open",
        "WebhookView.campaign": None,
        "WebhookView.id": PATH["webhook"].example,
        "WebhookView.name": "pager",
        "WhyView.updating": True,
    }
)
"""What it looks like in one model, or in those that are made from it; it outweighs ``NAMED``."""


def example_of(model: type[BaseModel]) -> Any:
    """Return what an answer of this model looks like, as JSON has it.

    Raises:
        LookupError: a member of it looks like nothing that is known here.
    """
    return model.model_validate(_members(model)).model_dump(mode="json")


def _members(model: type[BaseModel]) -> dict[str, Any]:
    return {name: _member(model, name, field) for name, field in model.model_fields.items()}


def _member(model: type[BaseModel], name: str, field: FieldInfo) -> Any:
    for one in model.__mro__:
        if (key := f"{one.__name__}.{name}") in OF:
            return OF[key]
    if not field.is_required():
        return field.get_default(call_default_factory=True)
    if (made := _made(field.annotation)) is not None:
        return made
    if name in NAMED:
        return NAMED[name]
    if _is_optional(field.annotation):
        return None
    if field.annotation is bool:
        return False
    raise LookupError(f"{model.__name__}.{name} has no example: say what it looks like in {__name__}.")


def _made(annotation: Any) -> Any:
    """Return an example of a member that is a model or a list of them; None: it is neither."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _members(annotation)
    if get_origin(annotation) in (list, tuple):
        of = get_args(annotation)[0]
        return [_members(of)] if isinstance(of, type) and issubclass(of, BaseModel) else None
    return None


def _is_optional(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType) and type(None) in get_args(annotation)
