"""Fuzzing of the core: `python -m fuzz TARGET`; docs/fuzzing.md tells what was found."""
