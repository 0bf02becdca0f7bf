"""
The apps, one a file: pure logic, Protocol, Factory and client together.
"""
