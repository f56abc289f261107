"""The arithmetic of a round's end: add masked vectors, unmask the sum, step the model."""
