"""Rendering of results for people: columns of text, independent of what they hold."""
