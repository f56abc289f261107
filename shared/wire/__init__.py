"""What travels: canonical JSON, transcripts to sign, the messages of the protocol."""
