"""Clip, quantize and pack on the device; their inverses on the server. Both halves of a pair share a file."""
