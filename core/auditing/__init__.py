"""Reconciling: store against ledger, ledger against itself, both against what was counted.

``auditor`` looks at everything while everybody works on it, ``differences`` says what a difference
is, ``counts`` reads what was counted, ``variance`` judges, ``repair`` mends what is derived,
``nightly`` does it once a night.
"""
