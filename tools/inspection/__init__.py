"""Show what is in a bundle and what it costs to train here."""
