"""The load-test harness: real orders against a real service, judged from outside. In this order:

    orders            reads an order log, dirt and all
    settings          what ``--set`` can set
    client            HTTP with retries under the same key, and the shapes of the answers
    histogram         latencies
    book              what the service has acknowledged in this run
    stocking          makes a fresh service ready for a log
    journeys          what becomes of each basket, drawn from the seed
    replay            baskets: reserve → commit → fulfil, amended, cancelled, returned or abandoned
    audit             recomputes every pool from the book and reads reservations back
    report            the summary and the JSON document
    progress          the bar in the terminal
    document          the report of a run, as programs read it
    compare           two reports, figure by figure
    scales            of plots: ticks, and where a value lies
    plots             lines, bars and heat maps as SVG
    pictures          which plots a report gets
    page              the report as one HTML file
    service           a service of the harness's own
    completejourney   turns real grocery transactions into an order log

It imports nothing of the service: what it knows, it knows from the contract.
"""
