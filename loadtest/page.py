"""The report of a run as one HTML file: nothing outside is loaded, no script is needed to read it.

Names of SKUs, channels, checks and settings are strangers' texts: all are escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from loadtest import plots
from loadtest.document import Check, Document
from loadtest.pictures import Picture, pictures
from loadtest.plots import escape

DIFFERENCES_MAX = 100  # shown of one check
LISTED_MAX = 8  # shown of a setting that is a list
SHORT_MAX = 36  # characters of a setting that has room beside others

STYLE = """
*{box-sizing:border-box}
body{margin:0 auto;max-width:74rem;padding:2rem 1.25rem 4rem;background:var(--page);
color:var(--ink);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.9rem;line-height:1.2;margin:0}h2{font-size:1.2rem;margin:3rem 0 .75rem}
h3{font-size:1rem;margin:0}p{margin:.25rem 0}
.soft,figcaption p,caption{color:var(--soft);font-size:.875rem}
.verdict{margin:1.5rem 0;padding:1rem 1.25rem;border:1px solid var(--rule);
border-left:6px solid var(--c2);border-radius:4px}
.verdict.bad{border-left-color:var(--c1)}.verdict strong{display:block;font-size:1.35rem}
.bad strong,td.bad{color:var(--c1)}td.good{color:var(--c2)}
.warning{margin:1rem 0;padding:.75rem 1.25rem;border-left:6px solid var(--c4);
border-radius:4px;background:color-mix(in srgb,var(--c4) 12%,var(--page))}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(7.5rem,1fr));gap:1px;margin:0;
border:1px solid var(--rule);border-radius:4px;overflow:hidden}
.tiles div{box-shadow:0 0 0 1px var(--rule);padding:.6rem .9rem}
.tiles dt{color:var(--soft);font-size:.8125rem}
.tiles dd{margin:0;font-size:1.3rem;font-variant-numeric:tabular-nums}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,30rem),1fr));
gap:2.25rem 2.5rem}
figure{margin:0;min-width:0;break-inside:avoid}figcaption{margin-bottom:.75rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9375rem}
caption{text-align:left;padding-bottom:.4rem}
th,td{padding:.4rem .75rem;text-align:left;border-bottom:1px solid var(--rule);
vertical-align:top}
thead th{color:var(--soft);font-weight:600;font-size:.8125rem;white-space:nowrap}
tbody th{font-weight:600}.number{text-align:right;white-space:nowrap}
tbody th,li{overflow-wrap:anywhere;min-width:8rem}td.good,td.bad{white-space:nowrap}
.narrow{max-width:46rem}
td ul{margin:.25rem 0 0;padding-left:1.1rem;font-size:.875rem}
.facts{columns:3 16rem;column-gap:2.5rem;margin:0;font-size:.9375rem}
.facts.long{columns:1}.facts div{display:flex;justify-content:space-between;gap:1.5rem;
padding:.35rem 0;border-bottom:1px solid var(--rule);break-inside:avoid}
.facts dt{color:var(--soft)}.facts dd{margin:0;text-align:right;overflow-wrap:anywhere}
footer{margin-top:3rem;border-top:1px solid var(--rule);padding-top:.75rem}
@media (max-width:600px){body{padding:1.25rem .9rem 3rem}h1{font-size:1.5rem}
th,td{padding:.35rem .5rem}}
@media print{body{max-width:none;padding:0;font-size:10pt}h2{margin-top:1.5rem;break-after:avoid}
.pictures{grid-template-columns:1fr 1fr;gap:1.25rem}tr,.verdict{break-inside:avoid}
*{print-color-adjust:exact}}
"""

POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(run: Document) -> str:
    """The whole page."""
    word, sentence, good = verdict(run)
    body = [
        *_head(run),
        f'<div class="verdict {"good" if good else "bad"}"><strong>{escape(word)}</strong>'
        f"{escape(sentence)}</div>",
        *_generator(run),
        *_tiles(run),
        *_pictures([*pictures(run)]),
        *_operations(run),
        *_limit(run),
        *_counted("Errors", "What was answered that is neither a grant nor a refusal.", run.errors),
        *_audit(run),
        *_settings(run),
        '<footer class="soft">Written by <code>python -m loadtest</code>. The same figures for '
        "programs are in the JSON file beside this page.</footer>",
    ]
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            f"<title>{escape(f'{run.scenario} {run.run}: {word}')}</title>",
            f"<style>{plots.STYLE}{STYLE}</style>\n</head>\n<body>",
            *body,
            "</body>\n</html>\n",
        )
    )


def verdict(run: Document) -> tuple[str, str, bool]:
    """In a word and in a sentence, and whether it is good."""
    audit = run.audit
    failed = [check.name for check in audit.checks if not check.passed]
    if audit.oversold:
        return (
            f"OVERSOLD by {_units(audit.oversold)}",
            f"More was promised than there was. {_of_checks(failed, audit.checks)}",
            False,
        )
    if failed or not audit.passed:
        return "NOT EXACT", f"Nothing was oversold. {_of_checks(failed, audit.checks)}", False
    if not audit.checks:
        return "NOT AUDITED", "No check was made, so this run shows nothing.", False
    looked = sum(check.checked for check in audit.checks)
    return (
        "Exact",
        f"0 units oversold. All {len(audit.checks)} checks of the audit passed; they looked at "
        f"{looked:,} things from outside.",
        True,
    )


def _of_checks(failed: Sequence[str], checks: Sequence[Check]) -> str:
    if not failed:
        return "The audit did not pass."
    return f"{len(failed)} of {len(checks)} checks of the audit failed: {', '.join(failed)}."


def _head(run: Document) -> Iterator[str]:
    yield '<header><p class="soft">Stockade load test</p>'
    yield f"<h1>{escape(run.scenario)}</h1>"
    facts = (
        f"run {run.run}",
        f"service {run.service_version}",
        f"started {run.started_at}",
        f"{run.seconds:,.1f} s after {run.setup_seconds:,.1f} s of set-up",
        f"{run.model} model",
        f"seed {run.seed}",
    )
    yield f'<p class="soft">{escape(" · ".join(facts))}</p></header>'


def _generator(run: Document) -> Iterator[str]:
    made = run.generator
    noun = "process" if made.processes == 1 else "processes"
    text = (
        f"Load from {made.processes} {noun}; 99 % of the requests were sent at most "
        f"{made.late_p99_ms:,.1f} ms later than intended."
    )
    if made.note:
        text += f" {made.note[0].upper()}{made.note[1:].rstrip('.')}."
    if made.bottleneck:
        yield (
            '<div class="warning"><b>Measured is the generator as much as the service.</b> '
            f"{escape(text)}</div>"
        )
    else:
        yield f'<p class="soft">{escape(text)}</p>'


def _tiles(run: Document) -> Iterator[str]:
    totals = run.totals
    yield "<h2>Requests</h2>\n<dl class=tiles>"
    for name in totals.__struct_fields__:
        yield f"<div><dt>{name.replace('_', ' ')}</dt><dd>{getattr(totals, name):,}</dd></div>"
    rate = totals.answered / run.seconds if run.seconds else 0.0
    yield f"<div><dt>answered/s</dt><dd>{rate:,.0f}</dd></div></dl>"


def _pictures(shown: Sequence[Picture]) -> Iterator[str]:
    yield "<h2>Plots</h2>"
    if not shown:
        yield '<p class="soft">The run left nothing to plot.</p>'
        return
    yield '<div class="pictures">'
    for picture in shown:
        yield (
            f"<figure><figcaption><h3>{escape(picture.title)}</h3><p>{escape(picture.text)}</p>"
            f"</figcaption>{picture.plot}</figure>"
        )
    yield "</div>"


def _operations(run: Document) -> Iterator[str]:
    if not run.operations:
        return
    heads = ("operation", "count", "per second", "p50", "p90", "p99", "p99.9", "slowest")
    rows = [
        (
            name,
            f"{each.count:,}",
            f"{each.rate_per_second:,.1f}",
            *(_ms(ms) for ms in (each.p50_ms, each.p90_ms, each.p99_ms, each.p999_ms, each.max_ms)),
        )
        for name, each in run.operations.items()
    ]
    yield "<h2>Operations</h2>"
    yield from _table(heads, rows, "Latencies in milliseconds.")


def _limit(run: Document) -> Iterator[str]:
    if run.find_limit is None:
        return
    heads = ("asked per second", "achieved", "p99, ms", "errors", "within the bounds")
    rows = [
        (
            f"{step.rate:,.0f}",
            f"{step.achieved:,.0f}",
            _ms(step.p99_ms),
            f"{step.errors:,}",
            "yes" if step.passed else "no",
        )
        for step in run.find_limit.steps
    ]
    yield "<h2>Search for the limit</h2>"
    yield from _table(heads, rows, f"The knee: {run.find_limit.knee:,.0f} requests per second.")


def _counted(title: str, caption: str, counts: dict[str, int]) -> Iterator[str]:
    if not any(counts.values()):
        return
    yield f'<h2>{title}</h2><div class="narrow">'
    known = sorted(counts.items(), key=lambda item: -item[1])
    yield from _table(("what", "count"), [(name, f"{n:,}") for name, n in known], caption)
    yield "</div>"


def _audit(run: Document) -> Iterator[str]:
    yield "<h2>Audit</h2>"
    if not run.audit.checks:
        yield '<p class="soft">No check was made.</p>'
        return
    yield '<div class="wide"><table><caption>Made from outside, after the run.</caption><thead>'
    yield '<tr><th scope="col">check</th><th scope="col">result</th>'
    yield '<th scope="col" class="number">looked at</th><th scope="col">differences</th></tr>'
    yield "</thead><tbody>"
    for check in run.audit.checks:
        kind, word = ("good", "passed") if check.passed else ("bad", "FAILED")
        yield (
            f'<tr><th scope="row">{escape(check.name)}</th><td class="{kind}">{word}</td>'
            f'<td class="number">{check.checked:,}</td><td>{_differences(check)}</td></tr>'
        )
    yield "</tbody></table></div>"


def _differences(check: Check) -> str:
    count = max(check.count, len(check.differences))
    if not count:
        return "none"
    shown = check.differences[:DIFFERENCES_MAX]
    items = "".join(f"<li>{escape(each)}</li>" for each in shown)
    more = f"<li>and {count - len(shown):,} more</li>" if count > len(shown) else ""
    return f"{count:,}<ul>{items}{more}</ul>"


def _settings(run: Document) -> Iterator[str]:
    """Short ones beside each other, long ones each on a row of their own."""
    yield "<h2>Settings and machine</h2>"
    parts = (run.settings, run.versions, run.machine)
    known = [(name, _plain(value)) for part in parts for name, value in part.items()]
    for kind, is_long in (("facts", False), ("facts long", True)):
        shown = [(n, v) for n, v in known if (len(n) + len(v) > SHORT_MAX) is is_long]
        if shown:
            yield f'<dl class="{kind}">'
            for name, value in shown:
                yield f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
            yield "</dl>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> Iterator[str]:
    """The first column is the rows' heading, the others are aligned as numbers."""
    yield f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr>'
    for number, head in enumerate(heads):
        kind = ' class="number"' if number else ""
        yield f'<th scope="col"{kind}>{escape(head)}</th>'
    yield "</tr></thead><tbody>"
    for first, *others in rows:
        cells = "".join(f'<td class="number">{escape(each)}</td>' for each in others)
        yield f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'
    yield "</tbody></table></div>"


def _plain(value: Any) -> str:
    """A setting as a person writes it."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items())
    if isinstance(value, list):
        more = f"; and {len(value) - LISTED_MAX:,} more" if len(value) > LISTED_MAX else ""
        return "; ".join(_plain(each) for each in value[:LISTED_MAX]) + more
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _units(count: int) -> str:
    return f"{count:,} unit{'' if count == 1 else 's'}"


def _ms(value: float) -> str:
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 1_000 else f"{value:,.0f}"
