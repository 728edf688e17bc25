"""Private servers of our own: find the binaries, start them, guard them, stop them.

    find        which binaries to run
    guard       the small process between us and a server, so that none is ever left behind
    server      start and stop, as the service and the tests do it: what the servers share
    valkey      the store: what is run, and when it answers
    postgres    the same for the ledger's database
    cluster     its data and the user that it runs as, made ready under the guard
"""
