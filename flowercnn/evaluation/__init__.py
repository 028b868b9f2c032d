"""What a classifier is worth, computed from predictions in NumPy."""
