"""The HTTP interface: thin routes over records. Every route states its policy."""
