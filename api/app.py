"""The application: a Starlette door for people and machines that look in, and in front of it the
plain ASGI way of ``/v1``, where every microsecond is a caller's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.routing import Route as Page
from starlette.types import Receive, Scope, Send

from api import pages
from api.call import (
    Answer,
    Call,
    Disconnected,
    Stream,
    passing_through,
    send_and_linger,
    send_reply,
    send_stream,
)
from api.gate import Gate
from api.limits import Limits
from api.log import HEADERS
from api.openapi import document
from api.problems import BodyTooLarge, MethodNotAllowed, answer
from api.routes import PAGES, ROUTES
from api.routing import Handler, PageHandler, Route, Router
from api.wire import encode
from core.access import ASKS
from core.errors import StartRefused, StockadeError, StockUnavailable
from core.meters import Meters, RouteMeter
from core.service import Service, open_service
from core.settings import Settings
from core.sheets import WORKER_SHEET, Book
from core.tracing import TRACE

if TYPE_CHECKING:
    from api.tracing import Tracing

_log = logging.getLogger("stockade.api")


class App(Starlette):
    """Stockade over ASGI. Its lifespan opens what ``open_service`` gives, and closes it.

    ``drain`` is called by whoever stops the service: it makes ``/readyz`` say so while requests are
    still served, and ends the streams. ``leave`` stops this worker alone, so the service is ready.
    """

    def __init__(
        self,
        open_service: Callable[[], AbstractAsyncContextManager[Service]],
        book: Book | None = None,
        meters: Meters | None = None,
        tracing: Tracing | None = None,
        host: str = "127.0.0.1",
        customer_rate: int | None = None,
    ) -> None:
        """``book``: what ``/metrics`` shows, with the sheet that ``meters`` count on. ``tracing``
        traces some of the requests. ``host``: where the service listens. ``customer_rate``: new
        reservations a minute of one customer."""
        super().__init__(
            routes=[
                *(Page(page.path, self._guarded(page), methods=[page.method]) for page in PAGES),
                Mount("/docs", pages.Viewer()),
            ],
            exception_handlers={
                HTTPException: pages.not_served,
                StockadeError: pages.refused,
                Exception: pages.failed,
            },
            lifespan=App._life,
        )
        self._gate = Gate(host)
        self.router.redirect_slashes = False  # a path has one spelling
        self.service: Service | None = None
        self.draining = False  # True once ``drain`` was called
        self._ending = asyncio.Event()
        self.book = book or Book()
        self.limits = Limits(self.book.rates, self.book.customer_rates, customer_rate)
        self.meters = meters or Meters(self.book.sheet(WORKER_SHEET))
        self.document = encode(document((*ROUTES, *PAGES)))
        self._open_service = open_service
        self._tracing = tracing
        self.meters.traced = tracing is not None
        self._by_route: dict[int, RouteMeter] = {}
        self._find = Router(ROUTES).find

    def drain(self) -> None:
        """The service is to stop soon."""
        self.draining = self.meters.draining = True
        self.leave()

    def leave(self) -> None:
        """This worker is to stop soon."""
        self._ending.set()

    @property
    def opened(self) -> Service:
        """The opened service. Raises StockUnavailable while it is not open."""
        if self.service is None:
            raise StockUnavailable("The service is not open")
        return self.service

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Let ``/v1`` through here; all else, the lifespan too, is Starlette's."""
        if scope["type"] == "http":
            if scope["path"].startswith("/v1/"):
                return self._answer(scope, receive, send)
            send = passing_through(scope, send)
        return super().__call__(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Find the route of a call, read its body, let the handler answer it."""
        started = perf_counter()
        call = Call(scope, self)
        HEADERS.set(call.headers)
        ASKS.set(call)
        if self._tracing is not None:
            call.trace = self._tracing.begin(call.method, call.headers)
            TRACE.set(call.trace)
        route: Route[Handler] | None = None
        try:
            route, call.parameter = self._find(call.method, call.raw_path)
            call.caller = self._gate.caller(call.headers, self.opened.keyring)
            call.check_scopes(route.scopes)
            if call.caller.rate is not None:
                call.limits = self.limits.of_key(call.caller)
            if route.body_bytes_max:
                await call.read(receive, route.body_bytes_max)
            reply: Answer = await route.handler(call)
        except BodyTooLarge as error:
            reply = answer(error, call.instance)
            self._count(call, route, reply[0], started)
            await send_and_linger(call, reply, receive, send)
            return
        except MethodNotAllowed as error:
            reply = answer(error, call.instance)
            if call.method == "OPTIONS":
                reply = 200, [(b"allow", error.allow.encode("ascii"))], b""
        except StockadeError as error:
            reply = answer(error, call.instance)
            error.__traceback__ = None  # its frames hold it: garbage for the collector alone
        except Disconnected:
            return
        except Exception:
            _log.exception("%s %s failed", call.method, call.instance)
            reply = answer(StockadeError(), call.instance)
        if isinstance(reply, Stream):
            self._count(call, route, 200, None)
            await send_stream(call, reply, receive, send, self._ending)
        else:
            self._count(call, route, reply[0], started)
            if reply[0] >= 400 and call.pours:
                await send_and_linger(call, reply, receive, send)
            else:
                await send_reply(call, reply, send)

    def admits(self, call: Call) -> bool:
        """True if a call would be let in now as it was: its key still counts, for the same."""
        try:
            return self._gate.caller(call.headers, self.opened.keyring) == call.caller
        except StockadeError:
            return False

    def may(self, request: Request, scope: str) -> bool:
        """True if who asks has this scope."""
        headers = Call(request.scope, self).headers
        try:
            return self._gate.caller(headers, self.opened.keyring).may(scope)
        except StockadeError:
            return False

    def _guarded(self, page: Route[PageHandler]) -> PageHandler:
        """The handler of a page, for those who may see it."""
        if not page.scopes:
            return page.handler

        async def guarded(request: Request) -> Response:
            call = Call(request.scope, self)
            call.caller = self._gate.caller(call.headers, self.opened.keyring)
            call.check_scopes(page.scopes)
            self.limits.of_key(call.caller)
            return await page.handler(request)

        return guarded

    def _count(
        self, call: Call, route: Route[Handler] | None, status: int, started: float | None
    ) -> None:
        """A request is about to be answered; ``started`` unless it is a stream."""
        meter = self._by_route.get(id(route))
        if meter is None:
            named = ("", "") if route is None else (route.method, route.path)
            meter = self._by_route[id(route)] = self.meters.route(*named)
        meter.answered(status)
        if started is not None:
            meter.took(perf_counter() - started)
        if call.trace is not None:
            call.trace.end(call.method, "" if route is None else route.path, status)

    @asynccontextmanager
    async def _life(self) -> AsyncIterator[None]:
        """The service is open as long as the server runs."""
        try:
            async with self._open_service() as self.service:
                yield
        finally:
            self.service = None
            if self._tracing is not None:
                await asyncio.to_thread(self._tracing.close)


def create_app(settings: Settings, book: Book | None = None, sheet: int = WORKER_SHEET) -> App:
    """The application over the service that ``settings`` describe; it counts on this sheet."""
    book = book or Book()
    meters = Meters(book.sheet(sheet))
    return App(
        lambda: open_service(settings, meters), book, meters, _tracing(settings), settings.host,
        settings.customer_rate,
    )  # fmt: skip


def _tracing(settings: Settings) -> Tracing | None:
    """Who traces requests, if the settings say where the traces go. Raises StartRefused."""
    if settings.trace_url is None:
        return None
    try:
        from api.tracing import open_tracing
    except ImportError as error:
        raise StartRefused(
            f"trace_url is set and {error.name} is missing; install stockade[tracing]"
        ) from None
    return open_tracing(settings.trace_url, settings.trace_ratio)
