"""What `make bench` runs: each figure as a ratio to a baseline of the same run."""
