"""The client with which programs request simulations and publish outcomes, on the Kafka of the settings or of the local stack.

It imports from ``streams.kafka`` and the ground floor (settings, errors), and finds a running local stack through ``deploy.stack``.
"""

from streams.client.discovery import NoKafkaAddress
from streams.client.twin_client import KafkaUnavailable, NoAnswer, TwinClient

__all__ = ["KafkaUnavailable", "NoAnswer", "NoKafkaAddress", "TwinClient"]
