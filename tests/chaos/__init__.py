"""Chaos runs: publish a stream whose correct result is computed independently, inject faults, and check that every count is right.

``plan`` draws the records to publish and ``schedule`` the faults, both from a seed. ``environment`` starts the servers and workers,
with a ``proxy`` between each worker and the broker; ``faults`` injects the faults and ``publisher`` sends the records. ``expected``
computes the correct result in plain Python, ``observed`` reads what the service stored and published, and ``invariants`` compares
the two. ``run`` puts them together.
"""
