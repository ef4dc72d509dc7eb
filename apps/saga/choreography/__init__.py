"""Use cases whose steps live in other services: what they say to each other is heard, kept as facts, and folded into runs.

The protocol is pipes/PROTOCOL.md. ``facts`` reads a message; ``fold`` makes a saga's state of facts, in any order; ``plan``
decides what is to be done about it; ``store`` keeps facts; ``sending`` makes messages; ``settle`` writes the run's rows;
``hearing`` and ``verbs`` are the ways in.
"""
