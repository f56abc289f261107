"""A version's weights in the Keras model that it was made from."""
