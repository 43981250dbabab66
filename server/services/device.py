"""One device, as this process knows it."""

from typing import Final

from server.domain.identity import Cohort, DeviceId, Region
from server.protocol.messages import Counter
from server.protocol.orders import Admit
from server.services.columns import ABSENCE_HALF_LIFE_S, Cell, Columns, fingerprint

HABIT_FROM: Final = 3.0
"""So many absences: who is away once a day comes to five."""
UNSTEADY_FROM: Final = 10.0
"""About two absences a day: silence of a quarter of an hour says less of such a device than of others."""


class Device:
    """One device; times in Unix seconds.

    What is asked of all devices at once is kept in ``columns``: of its fleet, or of its own if it belongs to none.
    """

    last_seen = Cell[float]()
    seen_stored = Cell[float]()
    member_since = Cell[float]()
    admitted_at = Cell[float]()
    revoked_at = Cell[float]()
    absences = Cell[float]()
    """How often it had been away at ``absent_at``, each time counting half as much after half a week."""
    absent_at = Cell[float]()
    gone = Cell[bool]()
    held = Cell[bool]()
    drops = Cell[int]()
    """Sessions lost since this process began."""
    wake_interval_s = Cell[int]()
    """Seconds between wakes, as it declares them; 0: it does not sleep."""

    __slots__ = (
        *("columns", "row", "id", "region", "cohort", "hardware", "nonce", "last_sequence", "welcomed_at", "reboot"),
        *("reboot_told_at", "site", "site_given", "moved", "utc_offset_minutes", "told_counter", "told_at"),
        *("free_bytes", "refusals", "_vendor_id", "_class_id", "_running_digest", "_admit"),
    )

    def __init__(
        self,
        name: DeviceId,
        region: Region,
        cohort: Cohort,
        member_since: float,
        *,
        held: bool = False,
        site: str = "",
        columns: Columns | None = None,
    ) -> None:
        self.columns = Columns() if columns is None else columns
        self.row = self.columns.join()
        self.id = name
        self.region = region
        self.cohort = cohort
        self.member_since = member_since
        self.held = held
        self.revoked_at = -1.0
        self.gone = True
        self._vendor_id = self._class_id = b""
        self.hardware = ""
        self._running_digest = b""
        self.nonce = b""
        self.last_sequence = -1
        """The newest report that this process has committed; after a restart every device's next beat repeats its last
        report once, which changes nothing."""
        self.welcomed_at = 0.0
        self._admit: Admit | None = None
        self.reboot: Admit | None = None
        """As ``admit``, in each welcome until it expires."""
        self.reboot_told_at = 0.0
        self.site = site
        """What it says of where it is, or people do (``site_given``), which outweighs; empty: nobody does."""
        self.site_given: str | None = None
        self.moved = False
        """It belongs elsewhere than at its last hello: the counters that it holds are not those of its audience."""
        self.utc_offset_minutes: int | None = None
        """East of UTC, by its last hello to this process."""
        self.told_counter: Counter | None = None
        """The directive of its cohort that it holds, by its last beat to this process, which came at ``told_at``."""
        self.told_at = 0.0
        self.free_bytes: int | None = None
        """Of its storage, by its last beat to this process; None: it does not say."""
        self.refusals = 0
        """Orders that it did not believe since it booted, by its last beat to this process."""

    @property
    def vendor_id(self) -> bytes:
        """Empty until its first hello."""
        return self._vendor_id

    @property
    def class_id(self) -> bytes:
        """Empty until its first hello."""
        return self._class_id

    def be(self, vendor_id: bytes, class_id: bytes, hardware: str) -> None:
        """It is of this vendor's hardware class."""
        self._vendor_id, self._class_id, self.hardware = vendor_id, class_id, hardware
        self.columns.vendor[self.row] = fingerprint(vendor_id)
        self.columns.hardware[self.row] = fingerprint(class_id)

    @property
    def running_digest(self) -> bytes:
        """Of the manifest of what it has booted; empty: it does not know."""
        return self._running_digest

    @running_digest.setter
    def running_digest(self, digest: bytes) -> None:
        self._running_digest = digest
        self.columns.running[self.row] = fingerprint(digest)

    @property
    def admit(self) -> Admit | None:
        """The campaign that lets it start although it is late; in each welcome until it expires."""
        return self._admit

    @admit.setter
    def admit(self, admit: Admit | None) -> None:
        self._admit = admit
        self.columns.has_admit[self.row] = admit is not None

    @property
    def is_unsteady(self) -> bool:
        """It was away several times a day before it was last heard from: the halt rule compares it with its like."""
        return self.absences_at(self.last_seen) >= UNSTEADY_FROM

    @property
    def is_away_by_habit(self) -> bool:
        """It was away every day or two: where hours of silence are judged, the halt rule leaves it out."""
        return self.absences_at(self.last_seen) >= HABIT_FROM

    def absences_at(self, now: float) -> float:
        """How often it has been away, as ``absences`` counts."""
        return self.absences * 2 ** (-(now - self.absent_at) / ABSENCE_HALF_LIFE_S)

    @property
    def revoked(self) -> bool:
        """Shut out until it is enrolled again."""
        return self.revoked_at >= self.admitted_at
