"""One file per operation: spec, implementations that only it needs, forward and backward."""
