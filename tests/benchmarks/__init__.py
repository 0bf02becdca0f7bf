"""
What a request costs: C{python -m tests.benchmarks}, explained in C{docs/benchmarks/README.md}.

- L{tests.benchmarks.rows}: what is measured
- L{tests.benchmarks.servers}: who is measured; each has a file in C{peers/}
- L{tests.benchmarks.load}: who asks
- L{tests.benchmarks.report}: the tables, the targets, the plots
"""
