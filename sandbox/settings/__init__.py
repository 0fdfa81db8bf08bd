"""What the configurations of keeper and runner have in common: settings as models, mistakes told by file and line.

It knows neither of them. What a setting is stands in its model, once: type, default, and a docstring that gives the
meaning and the reason of the default. Pure, but for reading one file.
"""
