"""Training, evaluating and predicting on the device, behind one protocol."""
