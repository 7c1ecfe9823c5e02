"""Evidence for the numbers of this project, measured on real data and on simulated worlds and shown on one page.

Each part is a module here with ``measure(quick: bool) -> Part``; adding one is adding a module.
``python -m tests.evidence`` measures the parts and writes ``docs/evidence.html`` and ``docs/evidence.json``.
"""
