"""
C{sockapps bench}: put any endpoint under load, and say how it bears it.
"""
