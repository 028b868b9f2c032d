"""Transfer learning: a head on a pretrained backbone, and fine-tuning."""
