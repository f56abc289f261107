"""The agent that runs on a Raspberry Pi or a phone."""
