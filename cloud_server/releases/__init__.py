"""What devices are told to use: promotions in stages, each with a gate on what devices themselves measured."""
