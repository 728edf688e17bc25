"""The ledger records: every movement of every unit, append-only, in PostgreSQL.

The truth for audit, reconciliation and rebuilding. It is fed by the events that the store's scripts
append, batch by batch, each together with the mark: how far the stream was read.

Read ``schema.sql``, then ``journal`` (the connections, single reads), ``books`` (what one batch
writes), ``migrating`` (who may do what), ``queries.sql``.
"""
