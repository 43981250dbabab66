"""What ``/metrics`` shows. One registry an application, so that two servers in one process do not mix."""

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

_COMMIT_BUCKETS: Final = (1, 3, 10, 30, 100, 300, 1000, 3000)


class Tally(Collector):
    """A counter by one label that costs an addition: for what comes by the ten thousand, on the event loop's thread.

    A ``Counter`` takes a lock each time, half a microsecond; this one is added up where it is, and read when it is
    asked for.
    """

    def __init__(self, name: str, text: str, label: str) -> None:
        self._name, self._text, self._label = name, text, label
        self.counts: dict[str, int] = {}

    def begin(self, labels: Iterable[str]) -> dict[str, int]:
        """Show these from zero on, and return the counts to add to."""
        self.counts.update(dict.fromkeys(labels, 0))
        return self.counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._text, labels=[self._label])
        for value, count in self.counts.items():
            family.add_metric([value], count)
        yield family


class Metrics:
    """Counters and gauges, named ``tidegate_*``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.messages = Tally("tidegate_messages", "Messages taken from the broker", "kind")
        self.registry.register(self.messages)
        self.dropped = Counter(
            "tidegate_messages_dropped", "Messages not acted on, by reason", ["reason"], registry=self.registry
        )
        self.reports = Counter("tidegate_reports", "Reports stored, by outcome", ["outcome"], registry=self.registry)
        self.batch = Histogram(
            "tidegate_commit_batch_size",
            "Hellos and reports in one transaction",
            buckets=_COMMIT_BUCKETS,
            registry=self.registry,
        )
        self.welcomes = Counter("tidegate_welcomes", "Welcomes sent", registry=self.registry)
        self.directives = Counter(
            "tidegate_directives_published", "Directives the broker has acknowledged", registry=self.registry
        )
        self.certificate_ends = Gauge(
            "tidegate_certificate_not_after_seconds",
            "When a TLS certificate of the server ends, in Unix seconds",
            ["name"],
            registry=self.registry,
        )
        self.blobs = Counter("tidegate_blobs_published", "Blobs the broker has acknowledged", registry=self.registry)
        self.blob_bytes = Gauge("tidegate_broker_blob_bytes", "Blobs that the broker retains", registry=self.registry)
        self.blob_budget = Gauge(
            "tidegate_broker_blob_budget_bytes", "Blobs that the broker may retain", registry=self.registry
        )
        self.blob_backlog = Gauge(
            "tidegate_broker_blob_backlog", "Blobs to be published or withdrawn", ["work"], registry=self.registry
        )
        self.deltas = Counter(
            "tidegate_deltas", "Deltas made, or found useless, by outcome", ["outcome"], registry=self.registry
        )
        self.decisions = Counter("tidegate_decisions", "Decisions, by kind", ["kind"], registry=self.registry)
        self.enrolments = Counter(
            "tidegate_enrolments",
            "Enrolments, renewals and revocations, by outcome",
            ["outcome"],
            registry=self.registry,
        )
        self.refused = Counter(
            "tidegate_credentials_refused", "Credentials that were not good, by kind", ["kind"], registry=self.registry
        )
        self.limited = Counter(
            "tidegate_requests_limited",
            "Requests turned away because of too many: with one token, or from one address with none that is good",
            ["by"],
            registry=self.registry,
        )
        self.devices = Gauge("tidegate_devices", "Devices, by presence", ["presence"], registry=self.registry)
        self.failed_evaluations = Counter(
            "tidegate_failed_evaluations", "Evaluations of a campaign that ended with an error", registry=self.registry
        )
        self.evaluated = Gauge(
            "tidegate_evaluated_timestamp_seconds", "When campaigns were last evaluated", registry=self.registry
        )
