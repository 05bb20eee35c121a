"""Compare latencies: both sides in turns, a verdict at interim looks, and its reports."""
