"""Measurement: the stopwatch, the worker processes, and the description of the machine."""
