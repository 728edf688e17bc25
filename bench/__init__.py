"""Benchmarks: every figure is a ratio of two things measured in turns, in one run.

In reading order: ``table`` (a figure, its bar and its verdict), ``stores`` (a private store and its
start state), ``callers`` (the load: callers that wait for their answers), ``ceiling`` (the store's
own ceiling: the bytes that the lane sent, sent again by nobody but a socket), ``peers`` (the same
done with redis-py), then the suites ``hot``, ``mixed``, ``workers``, ``http``, ``kernel`` and
``growth``. ``python -m bench`` runs them. ``contest`` measures the product beside what shops write
themselves (``contestants``, ``postgres_peers``, ``peers_table``): ``python -m bench peers``;
``where`` takes a reservation apart: ``python -m bench where``.
``test_*.py`` are short ones for pytest-benchmark, each beside the loop of ``calibration``
(``worlds``: a worker that is stepped by hand); ``compare`` tells which of two runs is slower.
"""
