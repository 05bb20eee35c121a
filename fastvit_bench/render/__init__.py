"""How results are written for people: knows columns of text, and nothing of what stands in them."""
