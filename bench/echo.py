"""The other side of the HTTP figures: a Starlette route that decodes a body and echoes it.

Run as ``python -m bench.echo LISTENER_FD``; served with the settings of ``api.worker``.
"""

from __future__ import annotations

import asyncio
import socket
import sys

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from api.worker import BACKLOG, KEEP_ALIVE_SECONDS
from core import collector, slices


async def echo(request: Request) -> JSONResponse:
    """The same JSON."""
    return JSONResponse(await request.json(), status_code=201)


app = Starlette(routes=[Route("/v1/reservations", echo, methods=["POST"])])


def main(listener_fd: int) -> None:
    """Serve until SIGTERM."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    # Not uvicorn's own --fd: that takes the socket for a Unix one and leaves Nagle's delays on.
    listener = socket.socket(fileno=listener_fd)
    slices.shorten()  # as a worker has them
    collector.settle()  # and does
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main(int(sys.argv[1]))
