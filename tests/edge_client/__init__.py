"""Tests of the device: no server, no TensorFlow."""
