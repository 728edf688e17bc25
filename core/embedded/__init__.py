"""A private Valkey of our own: find the binary, start it, guard it, stop it.

    find      which server binary to run
    guard     the small process between us and the server, so that none is ever left behind
    valkey    start and stop, as the service and the tests do it
"""
