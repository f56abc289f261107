"""The enrolment authority: codes, certificates and their log, with a key that the aggregator's code never uses.

It knows nothing of rounds or cohorts (enforced by import-linter). An operator who runs it in the aggregator's
process, as ``serve`` does, gives up the protection against invented devices.
"""
