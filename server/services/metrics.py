"""What ``/metrics`` shows. One registry an application, so that two servers in one process do not mix."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_COMMIT_BUCKETS: Final = (1, 3, 10, 30, 100, 300, 1000, 3000)


class Metrics:
    """Counters and gauges, named ``tidegate_*``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.messages = Counter("tidegate_messages", "Messages taken from the broker", ["kind"], registry=self.registry)
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
        self.blobs = Counter("tidegate_blobs_published", "Blobs the broker has acknowledged", registry=self.registry)
        self.decisions = Counter("tidegate_decisions", "Decisions, by kind", ["kind"], registry=self.registry)
        self.enrolments = Counter(
            "tidegate_enrolments",
            "Enrolments, renewals and revocations, by outcome",
            ["outcome"],
            registry=self.registry,
        )
        self.devices = Gauge("tidegate_devices", "Devices, by presence", ["presence"], registry=self.registry)
        self.failed_evaluations = Counter(
            "tidegate_failed_evaluations", "Evaluations of a campaign that ended with an error", registry=self.registry
        )
        self.evaluated = Gauge(
            "tidegate_evaluated_timestamp_seconds", "When campaigns were last evaluated", registry=self.registry
        )
