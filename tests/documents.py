"""The pages of ``docs/`` that are made from the code: ``python -m tests.documents`` writes them.

A test in ``tests/house`` holds each equal to what is made here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from core.meters import FAMILIES
from core.settings import FILE_NAME, FILE_VARIABLE, PREFIX, Settings, descriptions, flag, wanted

DOCS = Path(__file__).parent.parent / "docs"
MADE = "<!-- Made by `python -m tests.documents`. Change the code, not this page. -->"


def metrics() -> str:
    """``docs/METRICS.md``."""
    lines = [
        "# Metrics",
        "",
        MADE,
        "",
        "`GET /metrics` shows these, in the text format of Prometheus or in OpenMetrics. Any "
        "worker answers for all of them.",
        "",
        "| name | kind | labels | what it says |",
        "| --- | --- | --- | --- |",
    ]
    for name, family in FAMILIES.items():
        labels = ", ".join(f"`{label}`" for label in family.labels)
        lines.append(f"| `{name}` | {family.kind} | {labels} | {family.help} |")
    return "\n".join(lines) + "\n"


def settings() -> str:
    """``docs/SETTINGS.md``."""
    lines = [
        "# Settings",
        "",
        MADE,
        "",
        f"A flag of the command line wins over the environment, that over `{FILE_NAME}` in the "
        f"directory of the start (or the file that `{FILE_VARIABLE}` names), that over the "
        "default. `stockade settings` shows every value and where it comes from; passwords are "
        "masked. An unknown name or a wrong value stops the start with one line that names it.",
        "",
        f"In the file a setting has its plain name: `port = 8080`. In the environment it is "
        f"`{PREFIX}` and the name in capitals: `{PREFIX}PORT=8080`. An empty variable counts as "
        "absent.",
        "",
        f"| setting | flag, `{PREFIX}…` | default | takes | what it is |",
        "| --- | --- | --- | --- | --- |",
    ]
    defaults = Settings()
    for name, text in descriptions().items():
        default = getattr(defaults, name)
        shown = "none" if default is None else str(default)
        shown = shown.lower() if isinstance(default, bool) else shown
        spelled = f"`{flag(name)}`, `{name.upper()}`"
        lines.append(f"| `{name}` | {spelled} | {shown} | {wanted(name)} | {text} |")
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {"METRICS.md": metrics, "SETTINGS.md": settings}


def main() -> None:
    """Write them all."""
    for name, make in PAGES.items():
        (DOCS / name).write_text(make())


if __name__ == "__main__":
    main()
