"""The REST side: requests in, JSON out, with the faults that are planned in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from typing import TYPE_CHECKING, Any

from aiohttp import web

from exitfsm.testing.alpaca_server.account import Account
from exitfsm.testing.alpaca_server.faults import Fault, Faults, RateLimit
from exitfsm.testing.alpaca_server.market import Timeframe
from exitfsm.testing.alpaca_server.orders import Refusal
from exitfsm.testing.alpaca_server.words import Json, at_text, compact, configurations_json
from exitfsm.values import OrderSide, plain

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
            ("GET", "/v2/account/configurations", self._configurations),
            ("GET", "/v2/account/activities/FILL", self._activities),
            ("GET", "/v2/account/activities", self._activities),
            ("GET", "/v2/clock", self._clock),
            ("GET", "/v2/calendar", self._calendar),
            ("GET", "/v2/assets", self._assets),
            ("GET", "/v2/assets/{symbol:.+}", self._asset),
            ("GET", "/v2/positions", self._positions),
            ("DELETE", "/v2/positions", self._close_all),
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
            ("GET", "/v2/stocks/snapshots", self._snapshots),
            ("GET", "/v2/stocks/{what:bars|trades|quotes}/latest", self._latest),
            ("GET", "/v2/stocks/{symbol}/bars", self._bars_of_one),
            ("GET", "/v2/stocks/{symbol}/{what:bars|trades|quotes}/latest", self._latest_of_one),
            ("GET", "/v1beta3/crypto/us/bars", self._bars),
            ("GET", "/v1beta3/crypto/us/snapshots", self._snapshots),
            ("GET", "/v1beta3/crypto/us/latest/{what:bars|trades|quotes}", self._latest),
        ]
        for method, path, handler in routes:
            app.router.add_route(method, path, handler)

    # --- around every request -----------------------------------------------------------------------------------------

    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await handler(request)
        body = await _body(request)
        self.requests.append((request.method, request.path_qs, body))
        sent = (request.headers.get("APCA-API-KEY-ID"), request.headers.get("APCA-API-SECRET-KEY"))
        if sent != (self.key, self.secret):
            return _json({"code": 40110000, "message": "request is not authorized"}, 401)
        if not self.limit.take():
            reset = {"Retry-After": "1", "X-RateLimit-Limit": str(self.limit.per_minute), "X-RateLimit-Remaining": "0"}
            return _json({"code": 42910000, "message": "rate limit exceeded"}, 429, reset)
        fault = self.faults.due(request.method, request.path, request.query_string)
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

    async def _configurations(self, _: web.Request) -> web.Response:
        return _json(configurations_json())

    async def _calendar(self, request: web.Request) -> web.Response:
        start, end = _day(request, "start", date(1970, 1, 1)), _day(request, "end", date(2029, 12, 31))
        return _json(self.account.hours.calendar_json(start, end))

    async def _assets(self, request: web.Request) -> web.Response:
        wanted = request.query.get("asset_class")
        found = [self.account.asset(symbol) for symbol in self.account.symbols()]
        return _json([asset for asset in found if wanted in (None, asset["class"])])

    async def _asset(self, request: web.Request) -> web.Response:
        return _json(self.account.asset(request.match_info["symbol"]))

    async def _positions(self, _: web.Request) -> web.Response:
        return _json(self.account.positions())

    async def _position(self, request: web.Request) -> web.Response:
        return _json(self.account.position(request.match_info["symbol"]))

    async def _close_position(self, request: web.Request) -> web.Response:
        shown = self.account.position(request.match_info["symbol"])
        qty = request.query.get("qty")
        if share := request.query.get("percentage"):
            qty = plain((Decimal(shown["qty"]).copy_abs() * Decimal(share) / 100).quantize(Decimal("1e-9"), ROUND_DOWN))
        return self._taken(_closing(shown, qty))

    async def _close_all(self, request: web.Request) -> web.Response:
        if request.query.get("cancel_orders", "").lower() == "true":
            for record in self.account.orders("open"):
                self.account.cancel(record.id)()
        told = []
        for shown in self.account.positions():
            answer = await self._answered(request, lambda _, p=shown: _now(self._taken(_closing(p))))  # type: ignore[misc]
            body = json.loads(str(getattr(answer, "text", "{}")))
            told.append({"symbol": shown["symbol"], "status": answer.status, "body": body})
        return _json(told, 207)

    async def _activities(self, request: web.Request) -> web.Response:
        query, kinds = request.query, request.query.get("activity_types", "FILL").split(",")
        found = self.account.activities() if "FILL" in kinds else []
        after, until, day = _moment(request, "after"), _moment(request, "until"), query.get("date")
        found = [a for a in found if after is None or a["transaction_time"] > after]
        found = [a for a in found if until is None or a["transaction_time"] < until]
        found = [a for a in found if day is None or a["transaction_time"].startswith(day)]
        if query.get("direction", "desc") == "desc":
            found.reverse()
        if token := query.get("page_token"):
            ids = [a["id"] for a in found]
            found = found[ids.index(token) + 1 :] if token in ids else []
        return _json(found[: min(PAGE, _count(request, "page_size", PAGE))])

    # --- orders -------------------------------------------------------------------------------------------------------

    async def _submit(self, request: web.Request) -> web.Response:
        return self._taken(await _body(request))

    def _taken(self, body: Any) -> web.Response:
        """The answer shows the order as `pending_new`; what follows is seen by updates and look-ups."""
        if not isinstance(body, dict):
            raise Refusal(400, 40010000, "request body format is invalid")
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
        after, until = _moment(request, "after"), _moment(request, "until")
        chosen = [r for r in chosen if after is None or str(at_text(r.created_at)) > after]
        chosen = [r for r in chosen if until is None or str(at_text(r.created_at)) < until]
        if query.get("direction", "desc") == "desc":
            chosen = chosen[::-1]
        limit = min(ORDERS_MAX, _count(request, "limit", 50))
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
        record = self.account.replace(request.match_info["id"], await _body(request) or {})
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
        shown, token = self._page(request, _symbols(request))
        return _json({"bars": shown, "next_page_token": token})

    async def _bars_of_one(self, request: web.Request) -> web.Response:
        symbol = request.match_info["symbol"].upper()
        shown, token = self._page(request, [symbol])
        return _json({"bars": shown.get(symbol, []), "symbol": symbol, "next_page_token": token})

    def _page(self, request: web.Request, symbols: list[str]) -> tuple[dict[str, list[Json]], str | None]:
        now, query = self.account.now(), request.query
        start, end = _moment(request, "start") or at_text(now - timedelta(days=1)), _moment(request, "end")
        try:
            frame = Timeframe.of(query.get("timeframe", "1Min"))
        except ValueError as error:
            raise Refusal(400, 40010001, str(error)) from None
        chosen = (symbols, str(start), end, frame, query.get("sort") == "desc")
        return self.market.page(*chosen, _count(request, "limit", 1000), _count(request, "page_token", 0))

    async def _latest(self, request: web.Request) -> web.Response:
        what = request.match_info["what"]
        return _json({what: self.market.latest(what, _symbols(request))})

    async def _latest_of_one(self, request: web.Request) -> web.Response:
        what, symbol = request.match_info["what"], request.match_info["symbol"].upper()
        found = self.market.latest(what, [symbol])
        if not found:
            raise Refusal(404, 40410000, f"no {what} found for {symbol}")
        return _json({"symbol": symbol, what.removesuffix("s"): found[symbol]})

    async def _snapshots(self, request: web.Request) -> web.Response:
        shown = self.market.snapshots(_symbols(request))
        return _json({"snapshots": shown} if "crypto" in request.path else shown)


# --- words of a request -----------------------------------------------------------------------------------------------


def _closing(shown: Json, qty: str | None = None) -> Json:
    """The order that closes a position, or a part of it."""
    side = OrderSide.SELL if shown["side"] == "long" else OrderSide.BUY
    times = "gtc" if shown["asset_class"] == "crypto" else "day"
    qty = qty if qty is not None else str(shown["qty"]).lstrip("-")
    return {"symbol": shown["symbol"], "side": str(side), "qty": qty, "type": "market", "time_in_force": times}


async def _now(answer: web.Response) -> web.Response:
    return answer


async def _body(request: web.Request) -> Any:
    """What was sent; None when it is nothing, or no JSON."""
    try:
        return await request.json() if request.method in ("POST", "PATCH") and request.body_exists else None
    except ValueError:
        return None


def _symbols(request: web.Request) -> list[str]:
    symbols = [s for s in request.query.get("symbols", "").upper().split(",") if s]
    if not symbols:
        raise Refusal(400, 40010001, "symbols is required")
    return symbols


def _moment(request: web.Request, name: str) -> str | None:
    """A time of the query as it is spelled in answers, so that the two can be compared; None when it is missing."""
    if not (text := request.query.get(name)):
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise Refusal(422, 42210000, f"{name} is no time") from None
    return at_text(at if at.tzinfo is not None else at.replace(tzinfo=UTC))


def _day(request: web.Request, name: str, otherwise: date) -> date:
    try:
        return datetime.fromisoformat(request.query[name]).date() if name in request.query else otherwise
    except ValueError:
        raise Refusal(422, 42210000, f"{name} is no day") from None


def _count(request: web.Request, name: str, otherwise: int) -> int:
    text = request.query.get(name) or str(otherwise)
    if not text.isdecimal():
        raise Refusal(422, 42210000, f"{name} is no number")
    return int(text)


def _json(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=json.dumps(data), content_type="application/json", headers=headers)
