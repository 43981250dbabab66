"""What a device's own word means to a person who wonders why it does not update: docs/reasons.md, as half sentences."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from server.protocol.reasons import Reason

SAID: Final[Mapping[Reason, tuple[str, str]]] = MappingProxyType(
    {
        Reason.NONE: ("it says no reason", "look at its own log"),
        Reason.MALFORMED: ("what it fetched is not well formed", "build and sign the bundle anew"),
        Reason.BAD_SIGNATURE: ("the bundle is not signed by enough keys that may sign it", "sign it, and push it anew"),
        Reason.EXPIRED: ("the offer, the root or the status is out of its time", "publish a valid root and status"),
        Reason.REPLAYED: ("it was shown an older order than the one it holds", "the next directive repairs it"),
        Reason.WRONG_AUDIENCE: ("it was shown an order for others", "look at the broker's permissions"),
        Reason.BAD_MANIFEST: ("the manifest is outside the profile", "build the bundle with this version's tools"),
        Reason.DIGEST_MISMATCH: ("the envelope is not the one that was offered", "push the bundle anew"),
        Reason.BAD_SUCCESSION: ("a root document does not follow its own", "publish the roots in between"),
        Reason.OLDER_SEQUENCE: (
            "the release's number is lower than one that it has confirmed, or below the fleet's floor",
            "build the release again under a higher number",
        ),
        Reason.HELD: ("it was told that it is held", "its next welcome tells it otherwise when it is not"),
        Reason.ALREADY_RUNNING: ("it runs this release", "nothing has to change"),
        Reason.ATTEMPTS_SPENT: ("three attempts have failed", "release it: `tidegate device release`"),
        Reason.REVOKED: ("the release, or a key that signed it, has been revoked", "nothing: make another release"),
        Reason.TRUST_BEHIND: ("it waits for a newer root or status", "see that the broker lets it read them"),
        Reason.LATE: ("it was away when the level passed it, or it sleeps", "it is admitted when there is room"),
        Reason.OUTSIDE_WINDOW: ("no maintenance window is open where it is", "it looks again when the next one opens"),
        Reason.WRONG_VENDOR: ("the release is another vendor's", "make a campaign of a release for it"),
        Reason.WRONG_CLASS: ("the release is for other hardware", "make a campaign of a release for it"),
        Reason.UNKNOWN_COMPONENT: (
            "the release has components that this device has not",
            "make a release for what it has",
        ),
        Reason.CHUNK_MISMATCH: (
            "a blob came with wrong bytes three times",
            "run `tidegate store verify`",
        ),
        Reason.DOWNLOAD_DEADLINE: ("the download took longer than the policy allows", "raise the policy's download_s"),
        Reason.WITHDRAWN: ("a blob was withdrawn while it fetched", "it tries again while the campaign is offered"),
        Reason.TOO_SLOW: ("less than 1 KiB a second came for five minutes", "look at its line; it tries again"),
        Reason.STORAGE_FULL: ("there is no room in its slot", "make room on it; it tries again"),
        Reason.STORAGE_ERROR: ("its storage failed", "look at the device"),
        Reason.IMAGE_MISMATCH: ("what it read back is not what was signed", "look at its storage; it tries again"),
        Reason.BOOT_FAILED: ("the new slot did not come up in three boots", "look at the release on this hardware"),
        Reason.TRIAL_DEADLINE: ("the trial was not finished in its time", "look at the release, or raise confirm_s"),
        Reason.NO_BROKER: ("the new image never reached the broker", "look at the release's network setup"),
        Reason.NO_WELCOME: ("the new image reached the broker and was never welcomed", "look at its trust documents"),
        Reason.LINE_LOST: ("the new image was off line when its time was over", "look at its line, or raise confirm_s"),
        Reason.HEALTH_CHECK_FAILED: ("its own check says that the new image does not work", "look at the release"),
        Reason.HALTED: ("the campaign was halted", "a resume opens another run; what ended then is not tried again"),
        Reason.ROLLED_BACK: ("the campaign was rolled back", "make another campaign"),
        Reason.CAMPAIGN_ENDED: (
            "no order named the campaign, or it was moved out of it",
            "it tries again",
        ),
        Reason.SUPERSEDED: ("a newer campaign has taken its place", "look at that campaign"),
        Reason.NO_WAY_BACK: (
            "a rollback was ordered, and its other slot cannot be booted",
            "make a new release of it",
        ),
        Reason.WENT_SILENT: ("it was not heard from by its deadline", "look at the device; its word wins if it comes"),
    }
)
