"""Statistics: estimates with intervals, change points, Pareto frontiers and the sequential test of the gate."""
