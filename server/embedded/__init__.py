"""The services that a single machine needs, from wheels, in the data directory: a database and an MQTT broker.

They are for trying, testing and small fleets. Both can be replaced one by one by servers that somebody else runs.
"""

from server.embedded.broker import EmbeddedBroker
from server.embedded.credentials import MqttCredential
from server.embedded.postgres import EmbeddedPostgres

__all__ = ["EmbeddedBroker", "EmbeddedPostgres", "MqttCredential"]
