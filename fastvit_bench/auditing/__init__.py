"""Files of others: which network they hold, how far off, with which preparation, and what could have been folded."""
