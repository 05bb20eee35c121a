"""Pure functions on numbers: intervals, tests, frontiers."""
