"""Runs in the environment of cwt, not in ours: verifies and signs what it reads as JSON, and answers the same way.

{"do": "verify", "key": COSE_Key or "pem", "block", "payload"}  ->  {"ok": true} or {"ok": false, "error"}
{"do": "sign", "pem", "alg", "kid", "typ" or null, "payload"}   ->  {"block"}, detached
Bytes are hexadecimal.
"""

import json
import sys

import cbor2
import cwt
from cwt import COSE, COSEKey


def verify(order: dict) -> dict:
    key = (
        COSEKey.from_pem(order["pem"], alg=order["alg"])
        if "pem" in order
        else COSEKey.from_bytes(bytes.fromhex(order["key"]))
    )
    try:
        COSE.new().decode(bytes.fromhex(order["block"]), key, detached_payload=bytes.fromhex(order["payload"]))
    except (ValueError, cwt.CWTError) as exc:
        return {"ok": False, "error": str(exc)}
    return {"ok": True}


def sign(order: dict) -> dict:
    key = COSEKey.from_pem(order["pem"], alg=order["alg"])
    protected = {1: key.alg, 4: bytes.fromhex(order["kid"])}
    if order["typ"] is not None:
        protected[16] = order["typ"]
    payload = bytes.fromhex(order["payload"])
    block = COSE.new().encode_and_sign(payload, key, protected=protected, out="cbor2/CBORTag")
    block.value[2] = None
    return {"block": cbor2.dumps(block).hex()}


json.dump([{"verify": verify, "sign": sign}[order["do"]](order) for order in json.load(sys.stdin)], sys.stdout)
