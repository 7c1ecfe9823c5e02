"""Everything on Kafka: topics, records, clients, and the Faust app of a role with its batch consumer.

It imports ``settings``, ``errors``, ``metrics`` and ``retries``, and the packages below ``streams``. Its modules are imported by
name, since some of them (``app``, ``asyncapi``, ``batch_consumer``, ``dead_letters``, ``start_offsets``) load Faust: a program that
only publishes does without it.
"""

__all__: list[str] = []
