"""The integers of a SUIT manifest (draft-ietf-suit-manifest-37), as far as our profile uses them."""

from enum import IntEnum
from typing import Final

SHA256_ID: Final = -16  # SHA-256 among the COSE algorithms (RFC 9054)
MANIFEST_VERSION: Final = 1


class Envelope(IntEnum):
    """Members of the envelope (section 8.2)."""

    TAG = 107
    AUTHENTICATION = 2
    MANIFEST = 3
    TEXT = 23


class Member(IntEnum):
    """Members of the manifest (section 8.4); SET_VERSION is of draft-ietf-suit-update-management."""

    VERSION = 1
    SEQUENCE_NUMBER = 2
    COMMON = 3
    SET_VERSION = 6
    VALIDATE = 7
    INVOKE = 9
    INSTALL = 20
    TEXT = 23


class Common(IntEnum):
    """Members of the common section (section 8.4.5)."""

    COMPONENTS = 2
    SHARED = 4


class Command(IntEnum):
    """Conditions and directives (sections 8.4.9 and 8.4.10)."""

    VENDOR_ID = 1
    CLASS_ID = 2
    IMAGE_MATCH = 3
    COMPONENT_SLOT = 5
    SET_COMPONENT_INDEX = 12
    TRY_EACH = 15
    OVERRIDE_PARAMETERS = 20
    FETCH = 21
    INVOKE = 23


class Parameter(IntEnum):
    """Parameters (section 8.4.8)."""

    VENDOR_ID = 1
    CLASS_ID = 2
    IMAGE_DIGEST = 3
    COMPONENT_SLOT = 5
    IMAGE_SIZE = 14
    URI = 21
    FETCH_ARGUMENTS = 25


class FetchArgument(IntEnum):
    """Members of the fetch arguments, which the draft leaves to us."""

    INDEX_DIGEST = 1
    INDEX_SIZE = 2
    CHUNK_COUNT = 3
    PROFILE = 4


class Report(IntEnum):
    """Reporting policies (section 8.4.7): every outcome of a condition, the failures of a directive.

    Of the slots of a component only the one that matches is worth a record.
    """

    ALL = 15
    FAILURE = 2
    MATCH = 5


class Text(IntEnum):
    """Members of the text map (section 8.4.4)."""

    UPDATE_DESCRIPTION = 2


TEXT_LANGUAGE: Final = "en-US"
