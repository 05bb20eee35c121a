"""What is done with finished results: kept in run files, set beside the published figures, laid out as tables."""
