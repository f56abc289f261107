"""Turn a TensorFlow model into a bundle that trains inside a stock TFLite runtime, and prove that it does."""
