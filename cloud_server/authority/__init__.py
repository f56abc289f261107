"""The enrolment authority: codes, certificates and their log, with a key that the aggregator's code never uses.

It knows nothing of rounds (enforced by import-linter). ``fedloom-server authority`` runs it as a process of its own,
with its own folder; an operator who runs it in the aggregator's process, as ``serve`` does without ``--authority``,
gives up the protection against invented devices and chosen graphs.
"""
