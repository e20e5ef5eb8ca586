"""Ways to run a trained network for nothing but its answers."""
