"""
What holds under fire: C{python -m tests.proofs}, without names, lists what is proved.

A proof is a module here that has C{TITLE}, one line, and C{run(smoke, say)}, which returns its
L{Figure}s, or raises L{CannotRun} or L{Failed}; C{say} takes a word on how it goes. With C{smoke}
it does the same with so few peers, for so short a time, that it takes seconds.

- L{tests.proofs.figures}: what comes out
- L{tests.proofs.servers}: the daemon that it is about
- L{tests.proofs.peers}: what loads are made of
- L{tests.proofs.probing}: the honest peer, who measures how others fare meanwhile
"""
