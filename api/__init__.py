"""Stockade's HTTP door: bytes in, bytes out, no policy. Read it in this order.

    routes         every path there is, with what it takes and gives: the tables
    routing        what a route is, and how a path of ``/v1`` finds its own
    call           one request and its answer; reads bodies within bounds, sends
    wire           bytes to structs and back: bodies, keys, versions, queries, cursors
    problems       what went wrong, as ``application/problem+json``
    reservations   the hot routes: reserve, its batch, the verbs, one reservation
    stock          receive, stock and availability
    policy         channels, locations, SKUs
    pages          health, readiness, the documentation: Starlette's part
    openapi        the OpenAPI 3.1 document, made of the tables and the structs
    app            the Starlette application; its lifespan opens the service, ``/v1`` passes by it

A request travels ``app`` → ``routing`` → a handler → ``wire`` → the engine, and its answer back.
Handlers hold no decisions about stock: they translate.
"""
