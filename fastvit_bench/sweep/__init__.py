"""Plan and run a sweep: many cells, each exported, proved and timed."""
