"""Sandboxes that someone else started: their addresses, the record of each, and the work done inside them."""
