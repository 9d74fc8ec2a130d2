"""Webhooks taken by FastAPI: verifies the raw body and answers 200 once NATS JetStream has acknowledged it.

Owns HTTP, the signature and the connection. SECRET_FILE signs; NATS_URL and STREAM say where bodies go.
"""

import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

SECRET = Path(os.environ["SECRET_FILE"]).read_bytes()
STREAM = os.environ["STREAM"]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    client = await nats.connect(os.environ["NATS_URL"])
    app.state.jetstream = client.jetstream()
    yield
    await client.drain()


app = FastAPI(lifespan=lifespan)


@app.post("/webhooks/bench")
async def deliver(request: Request) -> PlainTextResponse:
    body = await request.body()
    expected = hmac.digest(SECRET, body, "sha256").hex()
    # As bytes, because a comparison of texts refuses what is not ASCII.
    presented = request.headers.get("signature", "").encode()
    if not hmac.compare_digest(expected.encode(), presented):
        return PlainTextResponse("not signed", status_code=401)
    await app.state.jetstream.publish(STREAM, body)
    return PlainTextResponse("stored")
