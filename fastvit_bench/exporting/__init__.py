"""From weights to a proved file."""
