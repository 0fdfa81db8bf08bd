"""Sandboxes that someone else started: where they are, what is known of each, and what can be done from inside them."""
