"""Who operates the aggregator: accounts with roles, sessions of browsers, tokens of programs."""
