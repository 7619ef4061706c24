"""What packages for encrypted fields do with the same rows: ``python -m benchmarks.comparison``.

Every package gets a folder and a process of its own, since several of them share module names.
"""
