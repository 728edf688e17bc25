"""TLS as the settings want it."""

from __future__ import annotations

import ssl
from pathlib import Path

from core.errors import StartRefused
from core.settings import Settings


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """What the server speaks TLS with; None if it speaks plain HTTP. The files are read now.

    Raises StartRefused for files that cannot be used.
    """
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    assert settings.tls_key is not None, "the settings have both or none"
    try:
        # A key under a pass phrase would have us ask for it at a terminal.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=_no_phrase)
    except (OSError, ValueError) as error:
        files = f"tls_cert {settings.tls_cert}, tls_key {settings.tls_key}"
        raise StartRefused(f"{files}: {_why(error)}") from None
    if settings.tls_client_ca is not None:
        _ask_for_certificates(context, settings.tls_client_ca)
    return context


def _ask_for_certificates(context: ssl.SSLContext, file: Path) -> None:
    """Clients must have a certificate of these authorities, besides their key."""
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(file)
    except OSError as error:
        raise StartRefused(f"tls_client_ca {file}: {_why(error)}") from None


def _no_phrase() -> str:
    raise ValueError("the key is under a pass phrase; give it without one")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no certificate and key in PEM").replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
