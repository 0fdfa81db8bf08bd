"""What the configurations of keeper and runner share: settings as models, and mistakes reported by file and line.

Knows neither of the two. A model states each setting once: its type, its default, and a docstring with the meaning and
the reason of the default. Pure, except for reading one file.
"""
