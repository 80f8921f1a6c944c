"""A robot's side of the graph: what publishes images and instructions, and hears actions."""
