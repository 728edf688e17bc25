"""Benchmarks: every figure is a ratio of two things measured in turns, in one run.

In reading order: ``table`` (a figure, its bar and its verdict), ``stores`` (a private store and its
start state), ``callers`` (the load: callers that wait for their answers), ``ceiling`` (the store's
own ceiling: the bytes that the lane sent, sent again by nobody but a socket), ``peers`` (the same
done with redis-py), then the suites ``hot``, ``mixed``, ``workers``, ``http``, ``kernel`` and
``growth``. ``python -m bench`` runs them; ``bench/test_*.py`` are short ones for pytest-benchmark.
``contest`` measures the product beside what shops write themselves (``contestants``,
``postgres_peers``): ``python -m bench peers``.
"""
