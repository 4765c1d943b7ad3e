"""The pool in simulated time: the real decide() and other servers' rules, one load, one queue."""
