"""Count correct answers on labelled images."""
