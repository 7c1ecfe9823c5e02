"""The demonstration: the whole workflow on a local stack, from a table of outcomes to the promotion of a better model.

It may import every other package except ``streams.cli``. Start it with ``streams.demo.run.run_demo``; nothing is imported here,
because its modules load pandas, Kafka and the worker.
"""

__all__: list[str] = []
