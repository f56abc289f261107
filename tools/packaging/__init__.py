"""The agent as a Debian package."""
