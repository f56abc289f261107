"""The operator's page in a real browser, on a real server."""
