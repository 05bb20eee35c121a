"""Files that commands leave for later ones: run files, and documents such as peaks and comparisons."""
