"""The load-test harness: a crowd against a real service, judged from outside. In this order:

    settings          what a scenario says, and ``--set`` instead; the files are in ``scenarios/``
    arrivals          when buyers come
    demand            who wants what: a synthetic crowd, and the stock that it finds
    orders            reads an order log, dirt and all: a crowd that was real
    journeys          what becomes of each basket, drawn from the seed
    transport         HTTP over kept connections
    client            retries under the same key, and the shapes of the answers
    histogram         latencies
    measure           what a run saw, second by second
    book              what the service has acknowledged in this run
    stocking          makes a service ready for a run
    tally             what happened to them
    crowd             baskets: reserve → commit → fulfil, amended, cancelled, returned or abandoned
    stockroom         restocks and counts meanwhile
    generator         a process that asks: its share of the crowd
    fleet             several of them as one
    limit             the search for the highest rate
    pools             what each pool must hold, by the book
    records           what the ledger has, against store and book
    checks            what an audit found
    audit             all of that after the run
    report            the summary and the JSON document
    document          the report of a run, as programs read it
    compare           two reports, figure by figure
    scales            of plots: ticks, and where a value lies
    plots             lines, bars and heat maps as SVG
    pictures          which plots a report gets
    page              the report as one HTML file
    live              what the terminal shows meanwhile
    sight             what of a run it shows
    service           a service of the harness's own
    run               one run from beginning to end
    completejourney   turns real grocery transactions into an order log

It imports nothing of the service: what it knows, it knows from the contract.
"""
