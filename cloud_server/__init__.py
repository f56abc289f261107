"""The aggregator and the enrolment authority."""
