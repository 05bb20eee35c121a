"""Figures of a cell over many runs, and the points at which they changed."""
