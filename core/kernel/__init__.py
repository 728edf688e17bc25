"""The kernel plans: who gets which units. Pure decisions, no I/O, no clock.

In: the policy, the pools as last seen, demands in order. Out: per demand what it takes from where
or every line that fails and why; per pool the row that it should become. All policy lives here
and only here. Every row is checked against conservation and signs before it is printed.

Read ``_pool.pxd`` (one pool), ``_policy.pxd`` (what is planned with), ``_plan.pxd`` (a batch), then
``reference.py`` (the same rule, slow and obvious). There is no silent fall-back to Python.
"""
