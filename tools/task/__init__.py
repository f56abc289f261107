"""``fedloom task``: from a Keras file and a folder of examples to a task that devices can take part in."""
