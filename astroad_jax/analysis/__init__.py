"""What is done with scores and latents: arrays in, numbers and pictures out."""
