"""The ``fedloom`` command: convert, simulate, bench and demo."""
