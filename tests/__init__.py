"""
The tests of sockapps: a package, so that C{python -m twisted.trial tests.test_framing} finds it
from the project's folder, and C{from tests.sockets import ...} means one thing to every runner.
"""

from hypothesis import settings

# A busy machine is no fault of what is tested.
settings.register_profile("sockapps", deadline=None)
settings.load_profile("sockapps")
