"""The transport under the SDK's session: a time limit and a size limit for every request, and no redirects.

Imports requests.
"""

from __future__ import annotations

from typing import Any

from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidURL, RequestException
from requests.models import PreparedRequest, Response

#: Bytes in an answer, unpacked; the longest we ask for, a page of bars, has some hundred thousand.
ANSWER_MAX = 1 << 24
_PIECE = 1 << 16


class AnswerTooLong(RequestException):
    """An answer longer than any that Alpaca gives; what was asked for may have taken effect."""


class OnceAdapter(HTTPAdapter):
    """Sends each request once, with a time limit. A redirect is an error: keys do not follow it."""

    def __init__(self, timeout_s: tuple[float, float]) -> None:
        self.timeout_s = timeout_s
        super().__init__(max_retries=0)

    def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        """One request; the SDK passes no time limit of its own."""
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = self.timeout_s
        response = super().send(request, *args, **kwargs)
        if response.is_redirect or 300 <= response.status_code < 400:
            response.close()  # its body is not read, so that the connection would stay with nobody
            raise InvalidURL(f"redirected with {response.status_code}")
        _read(response)
        return response


def _read(response: Response) -> None:
    """Take the body in, as far as it may be long; requests would take in all of it."""
    pieces, length = [], 0
    for piece in response.iter_content(_PIECE):
        pieces.append(piece)
        length += len(piece)
        if length > ANSWER_MAX:
            response.close()
            raise AnswerTooLong(f"an answer of more than {ANSWER_MAX} bytes")
    response._content = b"".join(pieces)  # where requests keeps what it has read
