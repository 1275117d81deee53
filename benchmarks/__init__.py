"""Speed measurements of fastconv: see README.md in this folder."""
