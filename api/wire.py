"""Bytes to structs and back: bodies, idempotency keys, versions, queries, cursors.

What is not valid is said with a pointer to where it stands. The way of a valid request costs one
pass of the decoder; only a failed one is looked at a second time.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from binascii import b2a_base64
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import unquote_plus

import msgspec
from msgspec import Meta, Struct

from api.call import Call
from api.problems import IfMatchInvalid, KeyInvalid, MalformedJson, UnsupportedMediaType
from core.errors import InvalidRequest, StaleVersion, StockadeError
from core.model import ACCOUNT_MAX, SKU_RULE, Key, is_printable, is_sku

T = TypeVar("T")

ITEMS_MAX = 1_000  # of one page: what one answer may cost
ITEMS_DEFAULT = 100
QUERY_FIELDS_MAX = 256  # 200 SKUs and whatever stands beside them
DETAIL_CHARS_MAX = 200  # a detail may quote what was sent, not repeat all of it
NO_SUCH_VERSION = ACCOUNT_MAX  # stands for an entity tag that never was a version

_KEY = re.compile(rb"[!-~]{1,255}")
_QUOTED_KEY = re.compile(rb'"((?:[!#-\[\]-~]|\\["\\])+)"')
_ENTITY_TAG = re.compile(rb'(?:W/)?"[!#-~\x80-\xff]*"')
_VERSION = re.compile(rb'"?([1-9][0-9]{0,15})"?')
# What the decoder raises for what it cannot read; text is looked at where it is decoded.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_JSON_TYPE = re.compile(
    rb'application/json(?:[ \t]*;[ \t]*charset="?utf-8"?)?[ \t]*', re.IGNORECASE
)
_LIMIT = re.compile(r"[1-9][0-9]{0,3}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MEMBER = re.compile(r"(?s)Object (?:contains unknown|missing required) field `(.*)`")
_PATH = re.compile(r"\.([a-z_]+)|\[(\d+)\]|(\[\.\.\.\])")
_Time = Annotated[datetime, Meta(tz=True)]
CURSOR_RULE = "Expected a cursor as next_cursor gave it"
TIME_RULE = "Expected a time as 2026-11-22T12:00:00.000Z"
_URL_SAFE = bytes.maketrans(b"+/", b"-_")

encode = msgspec.json.Encoder().encode


class Page(Struct, Generic[T], frozen=True):
    """One page of a list; ``next_cursor`` asks for the one after it."""

    items: list[T]
    next_cursor: str | None


def invalid(pointer: str, detail: str) -> InvalidRequest:
    """One thing that is wrong, and where."""
    return InvalidRequest(detail, [(pointer, detail)])


# --- Bodies


class Body(Generic[T]):
    """A kind of request body: its decoder, and which of its members are free text."""

    def __init__(
        self,
        kind: type[T],
        text: tuple[str, ...] = (),
        optional: bool = False,
        query: tuple[str, ...] = (),
    ) -> None:
        """``optional`` bodies may be absent, which counts as an empty object; ``query`` names the
        parameters that its route takes beside it."""
        self._query = query
        self._decoder = msgspec.json.Decoder(kind)
        self._kind = kind
        self._text = text
        self._optional = optional

    def read(self, call: Call) -> tuple[bytes | None, T]:
        """The Idempotency-Key of ``call`` and its body.

        Raises, in this order: UnsupportedMediaType, KeyInvalid, MalformedJson, InvalidRequest.
        """
        self._check_media_type(call)
        sent = header_key(call)
        value = self.decode(call.body)
        if call.query:
            Parameters(call, self._query)
        return sent, value

    def read_versioned(self, call: Call) -> tuple[bytes | None, T, int | None]:
        """The same and the version that If-Match names, whose IfMatchInvalid is a 400 as well."""
        self._check_media_type(call)
        version = if_match(call)
        return *self.read(call), version

    def read_new(self, call: Call) -> tuple[bytes | None, T]:
        """The same for what has no version yet: an If-Match, be it ``*``, matches nothing.

        Raises StaleVersion last.
        """
        sent, value, _ = self.read_versioned(call)
        if b"if-match" in call.headers:
            raise StaleVersion("There is no version yet that If-Match could name; leave it out")
        return sent, value

    def decode(self, body: bytes, pointer: str = "") -> T:
        """``body``, found at ``pointer``, as a struct. Raises MalformedJson, InvalidRequest."""
        if not body and self._optional:
            body = b"{}"
        try:
            value = self._decoder.decode(body)
        except UNREADABLE as error:
            raise _refusal(body, error, self._kind, pointer) from None
        if self._text:
            check_text(value, self._text, pointer)
        return value

    def _check_media_type(self, call: Call) -> None:
        sent = call.headers.get(b"content-type")
        if sent == b"application/json":
            return
        if not call.body and self._optional:
            return  # nothing of any type
        if sent is None:
            raise UnsupportedMediaType
        if not _JSON_TYPE.fullmatch(sent):
            raise UnsupportedMediaType


def check_text(value: object, names: tuple[str, ...], pointer: str = "") -> None:
    """Raises InvalidRequest if one of the free texts ``names`` of ``value`` is not printable."""
    for name in names:
        text: str | None = getattr(value, name)
        if text is None or (text.isprintable() and (name != "customer" or "@" not in text)):
            continue
        detail = "Expected printable characters" + (" without @" if name == "customer" else "")
        raise invalid(f"{pointer}/{name}", detail)


def _refusal(body: bytes, error: Exception, kind: type, prefix: str) -> StockadeError:
    """What is wrong with ``body``, that could not be decoded as ``kind``, at ``prefix``.

    What is not JSON at all comes first: the decoder stops at the first member that does not fit,
    so the rest has to be read before the body may be called invalid.
    """
    try:
        document = json.loads(body.decode(), parse_constant=_no_constant, parse_int=_whole)
        if (pointer := _half_character(document, "")) is not None:
            return invalid(prefix + pointer, "Text holds half of a surrogate pair")
        if not isinstance(error, msgspec.ValidationError):
            return MalformedJson(f"The body is not JSON: {_shortened(str(error))}")
        detail, pointer = _pointed(str(error), document, kind)
        pointer = prefix + pointer
    except UnicodeDecodeError:
        return MalformedJson("The body is not UTF-8")
    except RecursionError:
        return MalformedJson("The body is nested too deeply")
    except ValueError as malformed:
        return MalformedJson(f"The body is not JSON: {_shortened(str(malformed))}")
    return InvalidRequest(f"{detail}, at {_shortened(pointer or 'the top')}", [(pointer, detail)])


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _whole(digits: str) -> int:
    """A number of JSON; one that is far out of every range may become another such."""
    return int(digits[:DETAIL_CHARS_MAX])


def _shortened(detail: str) -> str:
    """``detail``, cut off where it gets too long."""
    return detail if len(detail) <= DETAIL_CHARS_MAX else detail[: DETAIL_CHARS_MAX - 1] + "…"


def _token(name: str) -> str:
    """``name`` as a token of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def _half_character(value: object, pointer: str) -> str | None:
    """Where in ``value`` a text stands that UTF-8 cannot say; None if nowhere."""
    if isinstance(value, str):
        return pointer if _SURROGATE.search(value) else None
    members: Iterable[tuple[object, object]] = ()
    if isinstance(value, dict):
        if any(_SURROGATE.search(name) for name in value):
            return pointer
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    for name, member in members:
        found = _half_character(member, f"{pointer}/{_token(str(name))}")
        if found is not None:
            return found
    return None


def _pointed(message: str, document: Any, kind: type) -> tuple[str, str]:
    """A message of the decoder as (what is wrong, JSON pointer).

    Its messages end with `` - at `$.lines[0].quantity` ``; a key of a mapping stands there as
    ``[...]``, and is found by decoding the document with one key of it at a time.
    """
    detail, _, path = message.rpartition(" - at ")
    if not detail:
        detail, path = message, "`$`"
    tokens: list[str] = []
    for member, index, key in _PATH.findall(path.removeprefix("`key` in ").strip("`")):
        if key:
            found = _failing_key(document, tokens, kind)
            if found is None:
                break
            tokens.append(found)
        else:
            tokens.append(member or index)
    named = _MEMBER.fullmatch(detail)
    if named is not None and len(named[1]) <= DETAIL_CHARS_MAX // 2:
        tokens.append(named[1])
    return _shortened(detail), "".join(f"/{_token(token)}" for token in tokens)


def _failing_key(document: Any, tokens: list[str], kind: type) -> str | None:
    """The first key of the mapping at ``tokens`` with which alone ``document`` is refused."""

    def holding(value: Any, depth: int, key: str) -> Any:
        """``document`` with nothing in that mapping but ``key``."""
        if depth == len(tokens):
            return {key: value[key]}
        return {**value, tokens[depth]: holding(value[tokens[depth]], depth + 1, key)}

    try:
        mapping = document
        for token in tokens:
            mapping = mapping[token]
        for key in mapping:
            alone = json.dumps(holding(document, 0, key)).encode()
            try:
                msgspec.json.decode(alone, type=kind)
            except msgspec.DecodeError:
                return str(key)
    except (LookupError, TypeError):
        pass  # the message quotes a member whose name looks like the end of a message
    return None


# --- Idempotency


def header_key(call: Call) -> bytes | None:
    """The Idempotency-Key of ``call``, without its quotes. Raises KeyInvalid."""
    sent = call.headers.get(b"idempotency-key")
    if sent is None:
        return None
    if sent.startswith(b'"'):
        quoted = _QUOTED_KEY.fullmatch(sent)
        if quoted is None:
            raise KeyInvalid
        sent = re.sub(rb"\\(.)", rb"\1", quoted[1])
    if not _KEY.fullmatch(sent):
        raise KeyInvalid
    return sent


def element_key(text: str, pointer: str) -> bytes:
    """The key of one element of a batch. Raises InvalidRequest with ``pointer``."""
    sent = text.encode()
    if not _KEY.fullmatch(sent):
        raise invalid(pointer, "Expected 1 to 255 visible ASCII characters")
    return sent


def scoped(owner: bytes, method: bytes, path: bytes, key: bytes, request: object) -> Key:
    """``key`` as the store knows it: used by ``owner``, at ``path``, for ``request``."""
    scope = b"%d:%b%d:%b%d:%b%d:%b" % (
        len(owner), owner, len(method), method, len(path), path, len(key), key
    )  # fmt: skip
    return Key(_hash(scope), _hash(encode(request)))


def of_batch(owner: bytes, path: bytes, key: bytes, element: tuple[str, str, Struct]) -> Key:
    """A key that a batch's header gave to an element: (verb, id, its request)."""
    scope = scoped(owner, b"POST", path, key, element)
    return Key(b"#" + scope.field, scope.fingerprint)


def _hash(message: bytes) -> bytes:
    """128 bits of ``message`` in 22 characters."""
    digest = blake2b(message, digest_size=16).digest()
    return b2a_base64(digest, newline=False)[:22].translate(_URL_SAFE)


# --- Versions


def if_match(call: Call) -> int | None:
    """The version that If-Match names; None if absent or ``*``. Raises IfMatchInvalid.

    A well-formed entity tag that is no version of ours matches nothing, as any stale one.
    """
    sent = call.headers.get(b"if-match")
    if sent is None or sent == b"*":
        return None
    if (version := _VERSION.fullmatch(sent)) is not None and sent.count(b'"') != 1:
        return int(version[1])
    if _ENTITY_TAG.fullmatch(sent) or sent.isdigit():
        return NO_SUCH_VERSION
    raise IfMatchInvalid


def etag(version: int) -> tuple[bytes, bytes]:
    """``version`` as an ETag header."""
    return (b"etag", b'"%d"' % version)


# --- Queries and cursors


class Parameters:
    """The query of a call, of which every parameter must be one that the route takes."""

    def __init__(self, call: Call, once: tuple[str, ...] = (), many: tuple[str, ...] = ()) -> None:
        """Raises InvalidRequest for a parameter in neither tuple, or one of ``once`` repeated."""
        self._many: dict[str, list[str]] = {}
        if not call.query:
            return
        query = call.query.decode("ascii", "replace")
        if query.count("&") >= QUERY_FIELDS_MAX:
            raise invalid("?", f"More than {QUERY_FIELDS_MAX} query parameters")
        encoded = "%" in query or "+" in query
        if not encoded:
            query = f"&{query}"
            for name in many:
                query = self._take_out(query, name)
        for part in query.split("&"):
            if not part:
                continue
            name, _, value = part.partition("=")
            if encoded:
                name, value = unquote_plus(name), unquote_plus(value)
            values = self._many.get(name)
            if values is None:
                if name not in once and name not in many:
                    raise invalid(f"?{_shortened(name)}", "Unknown query parameter")
                self._many[name] = [value]
            elif name in once:
                raise invalid(f"?{name}", "Expected once")
            else:
                values.append(value)

    def _take_out(self, query: str, name: str) -> str:
        """Takes all values of ``name`` at once: a page of a shop sends many, and one by one they
        would cost as much as the answer. What is left of the query."""
        left, *values = query.split(f"&{name}=")
        for number, value in enumerate(values):
            if "&" in value:
                values[number], _, behind = value.partition("&")
                left = f"{left}&{behind}"
        if values:
            self._many[name] = values
        return left

    def __contains__(self, name: str) -> bool:
        return name in self._many

    def one(self, name: str) -> str | None:
        """The value of ``name``, if sent."""
        values = self._many.get(name)
        return values[0] if values else None

    def flag(self, name: str) -> bool:
        """``name`` as yes or no; no if absent. Raises InvalidRequest."""
        value = self.one(name)
        if value not in (None, "true", "false"):
            raise invalid(f"?{name}", "Expected true or false")
        return value == "true"

    def each(self, name: str, items_max: int) -> list[str]:
        """The values of ``name``, each once. Raises InvalidRequest."""
        values = list(dict.fromkeys(self._many.get(name, ())))
        if len(values) > items_max:
            raise invalid(f"?{name}", f"Expected at most {items_max} of them")
        return values

    def skus(self, name: str, items_max: int) -> list[str]:
        """The SKUs in ``name``, each once. Raises InvalidRequest."""
        skus = self.each(name, items_max)
        for sku in skus:
            if not is_sku(sku):
                raise invalid(f"?{name}", SKU_RULE)
        return skus

    def checked(self, name: str, holds: Callable[[str], bool], rule: str) -> str | None:
        """The value of ``name``, if sent. Raises InvalidRequest, with ``rule``, unless it holds."""
        value = self.one(name)
        if value is not None and not holds(value):
            raise invalid(f"?{name}", rule)
        return value

    def time(self, name: str) -> datetime | None:
        """``name`` as a time, if sent. Raises InvalidRequest."""
        value = self.one(name)
        try:
            return None if value is None else msgspec.convert(value, _Time).astimezone(UTC)
        except (msgspec.ValidationError, OverflowError):  # year 0 or 10,000, by its time zone
            raise invalid(f"?{name}", TIME_RULE) from None

    def page(self) -> tuple[str, int]:
        """``cursor`` and ``limit`` as (the item before, how many). Raises InvalidRequest."""
        limit = self.one("limit")
        if limit is None:
            items = ITEMS_DEFAULT
        elif _LIMIT.fullmatch(limit) and int(limit) <= ITEMS_MAX:
            items = int(limit)
        else:
            raise invalid("?limit", f"Expected a number from 1 to {ITEMS_MAX}")
        cursor = self.one("cursor")
        return "" if cursor is None else cursor_after(cursor), items


def cursor(after: str | None) -> str | None:
    """An opaque cursor that goes on after the item ``after``; None for None."""
    if after is None:
        return None
    return b2a_base64(after.encode(), newline=False).translate(_URL_SAFE).rstrip(b"=").decode()


def cursor_after(text: str) -> str:
    """The item after which ``text`` goes on. Raises InvalidRequest."""
    try:
        after = urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except ValueError:
        after = ""
    if not is_printable(after) or cursor(after) != text:
        raise invalid("?cursor", CURSOR_RULE)
    return after
