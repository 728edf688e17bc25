"""Stockade's core: who gets the last unit. Read it in this order.

    errors      what can go wrong, each with its stable code
    model       the values that cross walls: requests in, receipts and pools out (stock_model,
                policy_model: channels, locations, SKUs, the mode)
    access      who asks, and what they may do (keyring: the API keys that a worker knows)
    settings    one typed place for everything that can be set, and every limit with its reason
    meters      what is counted, under which name (sheets: the memory it is counted in;
                rates: how often somebody asked)
    kernel      plans: pure decisions in C; read ``_plan.pxd`` first, ``reference.py`` for the rule
    store       commits: key names, Lua scripts, and what is said to Valkey
    ledger      records: every movement, append-only; read ``schema.sql``, then ``books``
    lane        group commit: what waits (queues, ops) is drained as fast as the store is (pace),
                planned (planning, stock_planning, refusals) on what was seen (snapshot, deadlines,
                clock), sent as a flight of steps (steps, stock_steps); what is planned anew under
                its record has its own (replan_ops, replan_steps, return_planning)
    availability  what a channel can take now, from what was seen a moment ago
    engine      the use cases of reservations, one short function per verb; those that plan
                anew under a record are in changes, what all share in asking
    stock       the use cases of stock: what arrives, what is counted and moved, what is there
    catalogue   the use cases of policy: channels, locations, SKUs
    channels    the end of a channel: swept out of all pools
    noting      who did what: told by the event of a change, or noted in one of its own
    protecting  the mode in which nothing is lent and less is taken (throttle)
    importing   stock and open orders from files, part by part
    auditing    reconciling: store, ledger and counts against each other; cases, repairs
    reaper      deadlines that passed, records that ended long ago
    scribe      stream → ledger: chronicle says what an event means, backlog how far it is behind
    backing     what the ledger does for reservations: keeps those that left the store
    trust       whether a store has all that it had: held against the worker and the ledger
    rebuild     the store made again from the ledger, after whatever was lost of it
    records     what the ledger holds, page by page (record_model); for a person on call: story
    feed        what happened, handed on to whoever listens (happenings)
    forgetting  whose old reservations were; what moved stays
    embedded    private servers, Valkey and PostgreSQL: find, start, guard, stop
    watch       looks at the ledger for what nobody counts; gauges: what a worker knows if asked
    collector   the garbage collector, told what it need not look at
    service     opens, wires and closes all of it (opening: what has to do with the ledger;
                single_flight: one look for many who ask at once)

Nothing is re-exported: one name, one home, one import path.
"""
