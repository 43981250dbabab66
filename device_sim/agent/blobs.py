"""Blobs by digest, over MQTT or HTTP: what the one transport does not bring is asked of the other.

Requests are made only while there is a session: a device that no order can reach does not go on fetching, so that a
halt ends every request of every device that hears of it.
"""

from typing import NamedTuple

from device_sim.agent.events import Got, StopGets, Subscribe, Unsubscribe
from device_sim.agent.fetcher import Arrival, Fetcher
from device_sim.agent.http_fetcher import HttpFetcher, Want
from device_sim.agent.pace import FLOOR_BYTES_PER_S, FLOOR_OVER_S, Pace
from device_sim.agent.situation import Situation
from server.protocol.reasons import Reason
from server.protocol.sources import HttpSource, Transport


class Loss(NamedTuple):
    """Something that no transport brings, and why; ``is_final`` where another way to the image would not help."""

    reason: Reason
    detail: str
    is_final: bool = False


class Blobs:
    """One download's requests. ``loss`` is to be looked at after every call, and after ``request`` above all."""

    def __init__(self, situation: Situation) -> None:
        self._situation = situation
        self._mqtt = Fetcher()
        self._http = HttpFetcher(situation.numbers)
        self._source: HttpSource | None = None
        self._via = Transport.MQTT
        self._pace = Pace()
        self._refused: dict[bytes, dict[Transport, Loss]] = {}
        self.loss: Loss | None = None

    @property
    def has_http(self) -> bool:
        return self._source is not None

    @property
    def next_at(self) -> float | None:
        """When to call ``request`` without an event (monotonic seconds)."""
        if not self._situation.is_up:
            return None
        times = [self._mqtt.next_at, self._pace.next_at]
        if self._source is not None:
            times.append(self._http.next_at)
        return min((time for time in times if time is not None), default=None)

    def use(self, source: HttpSource | None) -> None:
        """Follow the offer: where the HTTP server is, if there is one that this device can use."""
        before, self._source = self._source, source if self._situation.has_http else None
        if before is None and self._source is not None and self._source.prefer is Transport.HTTP:
            self._switch()
        elif self._source is None and before is not None:
            self._leave_http()

    def want(self, digest: bytes, size_bytes: int) -> None:
        """Ask for a blob, once however often it is wanted."""
        self._ask(Want(digest, size_bytes), self._via)

    def want_part(self, image_digest: bytes, size_bytes: int, first: int) -> None:
        """Ask for a part of a whole image, which is to be had over HTTP alone."""
        self._ask(Want(image_digest, size_bytes, first), Transport.HTTP)

    def message(self, digest: bytes, payload: bytes) -> Want | None:
        """Take a message on a blob's topic; return what it brought."""
        size = self._mqtt.wanted.get(digest, 0)
        arrival = self._mqtt.take(digest, payload, self._situation.now)
        return self._arrived(arrival, Want(digest, size), Transport.MQTT)

    def got(self, got: Got) -> Want | None:
        """Take an answer over HTTP; return what it brought."""
        taken = self._http.take(got, self._situation.now)
        return None if taken is None else self._arrived(taken.arrival, taken.want, Transport.HTTP)

    def request(self) -> None:
        """Ask for what is next, and leave what has come."""
        here = self._situation
        if not here.is_up:
            return
        self._look_at_progress()
        leave, subscribe = self._mqtt.requests(here.now)
        if leave:
            here.journal.emit(Unsubscribe(tuple(map(here.topics.blob, leave))))
        if subscribe:
            here.journal.emit(Subscribe(tuple(map(here.topics.blob, subscribe))))
        if self._source is not None:
            for get in self._http.requests(here.now, self._source):
                here.journal.emit(get)

    def link_lost(self) -> None:
        """The session is over: nothing is under way until the next one."""
        self._mqtt.link_lost()
        self._stop_http()
        self._pace.is_too_slow(self._situation.now, waiting=False)

    def stop(self) -> None:
        """Leave every blob topic, and end every request."""
        leave = self._mqtt.subscribed()
        if leave and self._situation.is_up:
            self._situation.journal.emit(Unsubscribe(tuple(map(self._situation.topics.blob, leave))))
        self._stop_http()

    def clear(self) -> None:
        """Want nothing any more, and begin anew with what is wanted next."""
        for digest in tuple(self._mqtt.wanted):
            self._mqtt.drop(digest)
        self._stop_http()
        for want in self._http.wanted:
            self._http.drop(want)
        self.loss = None

    def _arrived(self, arrival: Arrival, want: Want, over: Transport) -> Want | None:
        if arrival is Arrival.GOOD:
            self._pace.came(want.size_bytes)
            self._refused.pop(want.digest, None)
            return want
        if arrival is Arrival.WITHDRAWN:
            self._refuse(want, over, Loss(Reason.WITHDRAWN, f"blob {want.digest.hex()} is not there any more"))
        elif arrival is Arrival.SPENT:
            detail = f"blob {want.digest.hex()} came wrong again and again"
            self._refuse(want, over, Loss(Reason.CHUNK_MISMATCH, detail))
        return None

    def _refuse(self, want: Want, over: Transport, loss: Loss) -> None:
        """It is not to be had there: what is next is not either, most likely."""
        self._drop(want, over)
        self._refused.setdefault(want.digest, {})[over] = loss
        self._ask(want, _OTHER[over])
        if self._via is over:
            self._switch()

    def _ask(self, want: Want, over: Transport) -> None:
        """Ask there, or else at the other one; a part of an image is to be had over HTTP alone."""
        refused = self._refused.get(want.digest, {})
        for transport in (over, _OTHER[over]):
            if transport in refused or not self._can_use(transport):
                continue
            if transport is Transport.HTTP:
                self._http.want(want)
                return
            if want.first is None:
                self._mqtt.want(want.digest, want.size_bytes)
                return
        self.loss = next(iter(refused.values()), Loss(Reason.WITHDRAWN, f"nobody has {want.digest.hex()}"))

    def _drop(self, want: Want, over: Transport) -> None:
        if over is Transport.HTTP:
            self._http.drop(want)
        else:
            self._mqtt.drop(want.digest)

    def _can_use(self, transport: Transport) -> bool:
        return transport is Transport.MQTT or self._source is not None

    def _look_at_progress(self) -> None:
        """Go over to the other transport when this one does not bring anything, or next to nothing."""
        waiting = bool(self._mqtt.wanted or self._http.wanted)
        if self._pace.is_too_slow(self._situation.now, waiting=waiting):
            if self._pace.slow_in_a_row > 1 or not self._can_use(_OTHER[self._via]):
                detail = f"less than {FLOOR_BYTES_PER_S} bytes a second for {FLOOR_OVER_S:.0f} s"
                self.loss = Loss(Reason.TOO_SLOW, detail, is_final=True)
            else:
                self._switch()
        elif self._http.is_stuck and any(want.first is not None for want in self._http.wanted):
            self.loss = Loss(Reason.TOO_SLOW, "the HTTP server does not answer")
        elif (self._http if self._via is Transport.HTTP else self._mqtt).is_stuck:
            self._switch()

    def _switch(self) -> None:
        if self._can_use(_OTHER[self._via]):
            if self._via is Transport.HTTP:
                self._leave_http()
            else:
                self._via = Transport.HTTP
                for digest, size in tuple(self._mqtt.wanted.items()):
                    if Transport.HTTP not in self._refused.get(digest, {}):
                        self._mqtt.drop(digest)
                        self._http.want(Want(digest, size))

    def _leave_http(self) -> None:
        self._via = Transport.MQTT
        self._stop_http()
        for want in self._http.wanted:
            has_other = want.first is None and Transport.MQTT not in self._refused.get(want.digest, {})
            if has_other or self._source is None:
                self._http.drop(want)
                self._ask(want, Transport.MQTT)

    def _stop_http(self) -> None:
        if self._http.is_asking:
            self._situation.journal.emit(StopGets())
        self._http.stopped()


_OTHER = {Transport.MQTT: Transport.HTTP, Transport.HTTP: Transport.MQTT}
