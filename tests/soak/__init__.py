"""Hours of small jobs while everything around them breaks, or minutes of it."""
