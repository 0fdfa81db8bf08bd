"""The settings of `runner serve`: one model, given by a file, the environment and options, in rising order."""
