"""The service under fire: a stream whose truth is known, a seeded schedule of faults, and a judge.

``plan`` says what is published and ``schedule`` what is broken when; ``stage`` holds the servers and workers, ``hands`` break them;
``truth`` recomputes in plain Python what has to come out, ``found`` reads what did, ``invariants`` holds one against the other.
"""
