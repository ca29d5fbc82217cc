"""The REST side: requests in, JSON out, with the faults that are planned in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from aiohttp import web

from exitfsm.testing.alpaca_server.account import Account, Refusal
from exitfsm.testing.alpaca_server.faults import Fault, Faults, RateLimit
from exitfsm.testing.alpaca_server.words import Json, at_text, compact
from exitfsm.values import OrderSide

if TYPE_CHECKING:
    from exitfsm.testing.alpaca_server.market import Market

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PAGE = 100
ORDERS_MAX = 500


class Rest:
    """Routes and their handlers.

    Attributes:
        requests: every request that came: method, path with query, and body.
        events_first: trade updates of a new order go out before the answer to its POST.
    """

    def __init__(self, account: Account, market: Market, key: str, secret: str, rate: int) -> None:
        self.account, self.market, self.key, self.secret = account, market, key, secret
        self.faults = Faults()
        self.limit = RateLimit(rate)
        self.requests: list[tuple[str, str, Any]] = []
        self.events_first = False

    def add_to(self, app: web.Application) -> None:
        """Put the routes into an application."""

        @web.middleware
        async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._around(request, handler)

        app.middlewares.append(around)
        routes: list[tuple[str, str, Callable[[web.Request], Awaitable[Any]]]] = [
            ("GET", "/v2/account", self._account),
            ("GET", "/v2/account/activities/FILL", self._activities),
            ("GET", "/v2/account/activities", self._activities),
            ("GET", "/v2/clock", self._clock),
            ("GET", "/v2/calendar", self._calendar),
            ("GET", "/v2/assets/{symbol:.+}", self._asset),
            ("GET", "/v2/positions", self._positions),
            ("GET", "/v2/positions/{symbol:.+}", self._position),
            ("DELETE", "/v2/positions/{symbol:.+}", self._close_position),
            ("GET", "/v2/orders:by_client_order_id", self._by_client_id),
            ("POST", "/v2/orders", self._submit),
            ("GET", "/v2/orders", self._orders),
            ("DELETE", "/v2/orders", self._cancel_all),
            ("GET", "/v2/orders/{id}", self._order),
            ("DELETE", "/v2/orders/{id}", self._cancel),
            ("PATCH", "/v2/orders/{id}", self._replace),
            ("GET", "/v2/stocks/bars", self._bars),
            ("GET", "/v2/stocks/{what:bars|trades|quotes}/latest", self._latest),
            ("GET", "/v1beta3/crypto/us/bars", self._bars),
            ("GET", "/v1beta3/crypto/us/latest/{what:bars|trades|quotes}", self._latest),
        ]
        for method, path, handler in routes:
            app.router.add_route(method, path, handler)

    # --- around every request -----------------------------------------------------------------------------------------

    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await handler(request)
        body = await request.json() if request.method in ("POST", "PATCH") and request.can_read_body else None
        self.requests.append((request.method, request.path_qs, body))
        sent = (request.headers.get("APCA-API-KEY-ID"), request.headers.get("APCA-API-SECRET-KEY"))
        if sent != (self.key, self.secret):
            return _json({"code": 40110000, "message": "request is not authorized"}, 401)
        if not self.limit.take():
            reset = {"Retry-After": "1", "X-RateLimit-Limit": str(self.limit.per_minute), "X-RateLimit-Remaining": "0"}
            return _json({"code": 42910000, "message": "rate limit exceeded"}, 429, reset)
        fault = self.faults.due(request.method, request.path)
        if fault is not None and fault.when == "before" and fault.kind != "slow":
            return await self._failed(request, fault)
        answer = await self._answered(request, handler)
        if fault is not None and fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        elif fault is not None and fault.when == "after":
            return await self._failed(request, fault)
        return answer

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refusal as refusal:
            return _json(refusal.body, refusal.status)
        except web.HTTPNotFound:
            return _json({"message": "Not Found"}, 404)

    async def _failed(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        if fault.kind == "hang":
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(fault.seconds)
        if fault.kind in ("hang", "reset"):
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=499)
        if fault.kind == "html":
            page = "<html><body><h1>502 Bad Gateway</h1></body></html>"
            return web.Response(status=fault.status, text=page, content_type="text/html")
        if fault.kind == "redirect":
            return web.Response(status=302, headers={"Location": "https://elsewhere.invalid/"})
        if fault.kind == "status":
            return web.Response(status=fault.status, text=fault.body, content_type="application/json")
        return web.Response(
            status=200, text="" if fault.kind == "empty" else '{"id": "tru', content_type="application/json"
        )

    # --- account, market, positions -----------------------------------------------------------------------------------

    async def _account(self, _: web.Request) -> web.Response:
        return _json(self.account.json())

    async def _clock(self, _: web.Request) -> web.Response:
        return _json(self.account.hours.clock_json(self.account.now()))

    async def _calendar(self, request: web.Request) -> web.Response:
        start = date.fromisoformat(request.query.get("start", "1970-01-01"))
        end = date.fromisoformat(request.query.get("end", "2029-12-31"))
        return _json(self.account.hours.calendar_json(start, end))

    async def _asset(self, request: web.Request) -> web.Response:
        return _json(self.account.asset(request.match_info["symbol"]))

    async def _positions(self, _: web.Request) -> web.Response:
        return _json(self.account.positions())

    async def _position(self, request: web.Request) -> web.Response:
        return _json(self.account.position(request.match_info["symbol"]))

    async def _close_position(self, request: web.Request) -> web.Response:
        shown = self.account.position(request.match_info["symbol"])
        side = OrderSide.SELL if shown["side"] == "long" else OrderSide.BUY
        qty = request.query.get("qty", str(shown["qty"]).lstrip("-"))
        body = {"symbol": shown["symbol"], "side": str(side), "qty": qty, "type": "market", "time_in_force": "day"}
        return self._taken(body)

    async def _activities(self, request: web.Request) -> web.Response:
        found = self.account.activities()
        after, token = request.query.get("after"), request.query.get("page_token")
        if after:
            start = at_text(datetime.fromisoformat(after)) or ""
            found = [a for a in found if a["transaction_time"] > start]
        if request.query.get("direction", "desc") == "desc":
            found.reverse()
        if token:
            ids = [a["id"] for a in found]
            found = found[ids.index(token) + 1 :] if token in ids else []
        return _json(found[: min(PAGE, int(request.query.get("page_size", PAGE)))])

    # --- orders -------------------------------------------------------------------------------------------------------

    async def _submit(self, request: web.Request) -> web.Response:
        return self._taken(await request.json())

    def _taken(self, body: Json) -> web.Response:
        """The answer shows the order as `pending_new`; what follows is seen by updates and look-ups."""
        record = self.account.submit(body)
        answer = _json(self.account.order_json(record))
        self._soon(lambda: self.account.opened(record))
        return answer

    async def _orders(self, request: web.Request) -> web.Response:
        query = request.query
        chosen = self.account.orders(query.get("status", "open"))
        if symbols := query.get("symbols"):
            wanted = {compact(name) for name in symbols.split(",")}
            chosen = [r for r in chosen if compact(r.symbol) in wanted]
        if side := query.get("side"):
            chosen = [r for r in chosen if r.side == side]
        if after := query.get("after"):
            chosen = [r for r in chosen if r.created_at > datetime.fromisoformat(after)]
        if until := query.get("until"):
            chosen = [r for r in chosen if r.created_at < datetime.fromisoformat(until)]
        if query.get("direction", "desc") == "desc":
            chosen = chosen[::-1]
        limit = min(ORDERS_MAX, int(query.get("limit", 50)))
        return _json([self.account.order_json(r) for r in chosen[:limit]])

    async def _order(self, request: web.Request) -> web.Response:
        return _json(self.account.order_json(self.account.by_id(request.match_info["id"])))

    async def _by_client_id(self, request: web.Request) -> web.Response:
        return _json(self.account.order_json(self.account.by_client_id(request.query.get("client_order_id", ""))))

    async def _cancel(self, request: web.Request) -> web.Response:
        self._soon(self.account.cancel(request.match_info["id"]))
        return web.Response(status=204)

    async def _cancel_all(self, _: web.Request) -> web.Response:
        told = []
        for record in self.account.orders("open"):
            self._soon(self.account.cancel(record.id))
            told.append({"id": record.id, "status": 200})
        return _json(told, 207)

    async def _replace(self, request: web.Request) -> web.Response:
        record = self.account.replace(request.match_info["id"], await request.json())
        answer = _json(self.account.order_json(record))
        self._soon(lambda: self.account.opened(record))
        return answer

    def _soon(self, effect: Callable[[], None]) -> None:
        if self.events_first:
            effect()
        else:
            asyncio.get_running_loop().call_later(0.002, effect)

    # --- market data --------------------------------------------------------------------------------------------------

    async def _bars(self, request: web.Request) -> web.Response:
        query = request.query
        start = datetime.fromisoformat(query["start"]) if "start" in query else self.account.now() - timedelta(days=1)
        start = start if start.tzinfo is not None else start.replace(tzinfo=self.account.now().tzinfo)
        shown, token = self.market.page(
            query["symbols"].split(","), start, int(query.get("limit") or 1000), query.get("page_token")
        )
        return _json({"bars": shown, "next_page_token": token})

    async def _latest(self, request: web.Request) -> web.Response:
        what, symbols = request.match_info["what"], request.query["symbols"].split(",")
        return _json({what: self.market.latest(what, symbols)})


def _json(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=json.dumps(data), content_type="application/json", headers=headers)
