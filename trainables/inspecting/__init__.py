"""What a trained network is made of, and what it does with an image."""
