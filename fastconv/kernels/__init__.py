"""Tile bodies: serial functions over flat arrays, without checks and without Tensors."""
