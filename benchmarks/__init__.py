"""Benchmarks: this server beside its peers, in one run, with equal budgets.

`python -m benchmarks` runs them; README.md beside this file says how to read the numbers.
"""
