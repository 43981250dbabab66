"""Which 32 bytes may be an Ed25519 public key.

OpenSSL accepts points of small order, and for those one fixed signature verifies for every message; it also accepts
encodings that are not reduced, so that one key would have two names. Neither has a use: both are refused here, once,
when a key is imported (RFC 8032 section 5.1.3, and the small-order check that section 5.1.7 leaves to the caller).
"""

from typing import Final, TypeAlias

_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _P) % _P
_SQRT_MINUS_ONE: Final = pow(2, (_P - 1) // 4, _P)
_COFACTOR_DOUBLINGS: Final = 3  # the curve's cofactor is 8

_Point: TypeAlias = tuple[int, int]


def is_sound_point(encoded: bytes) -> bool:
    """True for the canonical encoding of a curve point whose order is not 1, 2, 4 or 8."""
    if len(encoded) != 32:
        return False
    point = _decompress(encoded)
    if point is None:
        return False
    for _ in range(_COFACTOR_DOUBLINGS):
        point = _double(point)
    return point != (0, 1)


def _decompress(encoded: bytes) -> _Point | None:
    number = int.from_bytes(encoded, "little")
    sign, y = number >> 255, number & ((1 << 255) - 1)
    if y >= _P:
        return None
    # x^2 = (y^2 - 1) / (d y^2 + 1); p = 5 mod 8 gives a candidate root up to a factor sqrt(-1).
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _SQRT_MINUS_ONE % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    return (_P - x if x & 1 != sign else x), y


def _double(point: _Point) -> _Point:
    """Affine doubling; -x^2 + y^2 = 1 + d x^2 y^2 turns the denominators of the addition law into these two."""
    x, y = point
    sum_of_squares = (y * y - x * x) % _P
    return (
        2 * x * y * pow(sum_of_squares, -1, _P) % _P,
        (y * y + x * x) * pow(2 - sum_of_squares, -1, _P) % _P,
    )
