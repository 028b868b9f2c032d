"""From a picture to an answer, and the model file."""
