"""The instruments: the stopwatch, the proof of equality, and the description of the machine."""
