"""Every error of Tidegate, grouped by who must act on it.

The message is one sentence that says what to do and holds no secret; what a program needs is in the attributes.
One table in ``server.api.problems`` maps these families to HTTP.
"""

from collections.abc import Iterable


class TidegateError(Exception):
    """The base of all of them."""


# --- the caller must change the request ---------------------------------------------------------------------------


class InvalidInputError(TidegateError):
    """What was sent is malformed or out of range. ``pointer`` is a JSON pointer to the member, where there is one."""

    def __init__(self, message: str, *, pointer: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer


class CodecError(InvalidInputError):
    """Bytes that are not what the strict codec, a topic or a telemetry message allows."""


class TooLargeError(InvalidInputError):
    """More bytes than the limit allows. ``limit_bytes`` is that limit."""

    def __init__(self, message: str, *, limit_bytes: int) -> None:
        super().__init__(message)
        self.limit_bytes = limit_bytes


class NotFoundError(TidegateError):
    """No such object, or none that this caller may see."""


class WithdrawnError(NotFoundError):
    """It was there, and is given to nobody any more."""


class ConflictError(TidegateError):
    """The state of things forbids it now; asking again later, or for something else, may work."""


class IllegalTransitionError(ConflictError):
    """A state machine has no such edge. ``allowed`` are the events that the state does allow."""

    def __init__(self, message: str, *, state: str, allowed: Iterable[str]) -> None:
        super().__init__(message)
        self.state = state
        self.allowed = tuple(allowed)


class KeyReusedError(ConflictError):
    """The name that a request gives itself is that of another one; nothing was done."""


class StaleError(ConflictError):
    """It has changed since the caller looked at it; nothing was done."""


class PreconditionMissingError(TidegateError):
    """The caller does not say what they have seen of what they would change; nothing was done."""


class OverBudgetError(ConflictError):
    """More bytes than may be at the broker at once. ``needed_bytes`` would be there, of ``budget_bytes``."""

    def __init__(self, message: str, *, needed_bytes: int, budget_bytes: int) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes
        self.budget_bytes = budget_bytes


class AuthenticationError(TidegateError):
    """No credential, or not a valid one."""


class ForbiddenError(TidegateError):
    """A valid credential whose role does not cover the action."""


class RateLimitedError(TidegateError):
    """Too many requests; nothing was done. After ``retry_after_s`` seconds it is worth another try."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


# --- the signer must sign anew, or the device is right to refuse ---------------------------------------------------


class TrustError(TidegateError):
    """Signed bytes that must not be acted on."""


class SignatureError(TrustError):
    """Not signed by enough of the keys that may sign it, or by none that we know."""


class WeakKeyError(TrustError):
    """A public key that would verify what its owner never signed, or that is no key at all."""


class ExpiredError(TrustError):
    """Signed well, but no longer (or not yet) valid."""


class ReplayError(TrustError):
    """Signed well, but older than what is already known, or another text under the same number."""


class RollbackError(TrustError):
    """An older release than the device, or the fleet's floor, allows."""


class SuccessionError(TrustError):
    """A root document that may not follow the one before it, whoever signed it."""


class RevokedError(TrustError):
    """Signed well, and taken back since."""


class AudienceError(TrustError):
    """Signed well, for somebody else."""


class CompatibilityError(TrustError):
    """A release for other hardware."""


class ManifestError(TrustError):
    """A manifest outside our SUIT profile."""


class DigestError(TrustError):
    """Bytes that are not the ones a digest names."""


class DeltaError(TrustError):
    """A delta that is none, or that does not make what it was offered for."""


# --- the operator must act ------------------------------------------------------------------------------------------


class ConfigurationError(TidegateError):
    """A setting, a key file or an environment that cannot work as it is."""


class SchemaError(ConfigurationError):
    """The database's schema is not the one this release knows."""


class CorruptBackupError(TidegateError):
    """A backup that is not whole, was altered, or is none; nothing was changed."""


class StoreUnavailableError(TidegateError):
    """The database or the blob store did not answer in time; what became of the request is unknown."""


class StoreFullError(TidegateError):
    """The blob store has no room left for this: raise its quota, or clear what nothing refers to."""


class LeaseLostError(StoreUnavailableError):
    """This node does not hold the lease any more, so it decides nothing; nothing was changed."""


class BrokerUnavailableError(TidegateError):
    """The MQTT broker did not answer in time."""


class IssuerUnavailableError(TidegateError):
    """The keys by which an OpenID provider's tokens are checked cannot be had now."""


class SignerUnavailableError(TidegateError):
    """Whoever holds the key did not sign, or gave something that is no signature by that key."""
