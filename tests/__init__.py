"""The tests.

A package of its own name, so that another package called `tests` on the path can not take its place.
"""
