"""This device's own data; nothing in this package can reach a network.

What trains reads a folder (``read_examples``), whatever is in it: arrays, tables, images, sounds, or what applications
on this device recorded there (``ExampleStore``).
"""

from __future__ import annotations

from edge_client.examples.reading import Found, expect, find_examples, read_examples, records
from edge_client.examples.recorded import ExampleStore

__all__ = ["ExampleStore", "Found", "expect", "find_examples", "read_examples", "records"]
