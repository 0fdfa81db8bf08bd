"""The sandbox image from outside: building it, and checking an image that was built on it."""
