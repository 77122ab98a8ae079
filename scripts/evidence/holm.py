"""Holm's correction for several comparisons."""


def holm(values):
    """The p values by name, adjusted so that all comparisons below a level err together no more often than it says."""
    adjusted, largest = {}, 0.0
    for place, name in enumerate(sorted(values, key=values.get)):
        largest = max(largest, min(1.0, (len(values) - place) * values[name]))
        adjusted[name] = largest
    return adjusted
