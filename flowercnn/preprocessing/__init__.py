"""From bytes to pixels, in one way for training, evaluation and prediction."""
