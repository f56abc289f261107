"""May this device train now? Readings of the machine, what was used today, and one decision by the owner's settings."""
