"""The ASGI application: opens the service, finds the route, answers, says what went wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from api.call import (
    Call,
    Disconnected,
    Receive,
    Reply,
    Scope,
    Send,
    send_and_linger,
    send_reply,
)
from api.openapi import document
from api.problems import BodyTooLarge, MethodNotAllowed, answer
from api.routes import ROUTES
from api.routing import Router
from api.wire import encode
from core.errors import StockadeError, StockUnavailable
from core.service import Service, open_service
from core.settings import Settings

_log = logging.getLogger("stockade.api")


class State:
    """What calls share: the opened service, and whether this worker is going away.

    ``draining`` is set by whoever stops the worker: it makes ``/readyz`` say so while requests
    are still served.
    """

    def __init__(self) -> None:
        self.service: Service | None = None
        self.draining = False
        self.document = encode(document(ROUTES))

    @property
    def open(self) -> Service:
        """The opened service. Raises StockUnavailable while it is not open."""
        if self.service is None:
            raise StockUnavailable("The service is not open")
        return self.service


class App:
    """Stockade over ASGI. Its lifespan opens what ``open_service`` gives, and closes it."""

    def __init__(self, open_service: Callable[[], AbstractAsyncContextManager[Service]]) -> None:
        self.state = State()
        self._open_service = open_service
        self._find = Router(ROUTES).find

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            raise ValueError(f"Stockade does not speak {scope['type']}")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, self.state)
        try:
            route, call.parameter = self._find(call.method, call.raw_path)
            if route.body_bytes_max:
                await call.read(receive, route.body_bytes_max)
            reply: Reply = await route.handler(call)
        except BodyTooLarge as error:
            await send_and_linger(call, answer(error, call.instance), receive, send)
            return
        except MethodNotAllowed as error:
            reply = answer(error, call.instance)
            if call.method == "OPTIONS":
                reply = 200, [(b"allow", error.allow.encode("ascii"))], b""
        except StockadeError as error:
            reply = answer(error, call.instance)
        except Disconnected:
            return
        except Exception:
            _log.exception("%s %s failed", call.method, call.instance)
            reply = answer(StockadeError(), call.instance)
        await send_reply(call, reply, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Open the service, stay until the server stops, close it."""
        await receive()
        started = False
        try:
            async with self._open_service() as self.state.service:
                started = True
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:
            _log.debug("the service failed", exc_info=True)
            phase = "shutdown" if started else "startup"
            await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
            raise
        finally:
            self.state.service = None
        await send({"type": "lifespan.shutdown.complete"})


def create_app(settings: Settings) -> App:
    """The application over the service that ``settings`` describe."""
    return App(lambda: open_service(settings))
