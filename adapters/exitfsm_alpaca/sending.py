"""The transport under the SDK's session: a time limit for every request, and no redirects. Imports requests."""

from __future__ import annotations

from typing import Any

from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidURL
from requests.models import PreparedRequest, Response


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
        return response
