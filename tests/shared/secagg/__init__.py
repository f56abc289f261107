"""Tests of secure aggregation, session by session and attack by attack."""
