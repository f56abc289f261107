"""Test vectors of the protocol, made by the implementation."""
