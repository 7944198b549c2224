"""Lists as OpenAI pages them: after an id, where gRPC pages by an opaque token of its own."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from fastapi import Request

from services.gateway.openai.errors import invalid, unknown_parameter

PAGE = 200


async def every(call: Callable[..., Awaitable[Any]], request: Any, field: str) -> AsyncIterator[Any]:
    """Yield everything that a gRPC list gives, page by page, as long as somebody reads."""
    request.page_size = request.page_size or PAGE
    while True:
        response = await call(request)
        for item in getattr(response, field):
            yield item
        if not response.next_page_token:
            return
        request.page_token = response.next_page_token


async def page(items: AsyncIterator[Mapping[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    """Return the page that follows an id. Raises: InvalidInput (no such id)."""
    data: list[Mapping[str, Any]] = []
    has_begun, has_more = after is None, False
    async for item in items:
        if not has_begun:
            has_begun = item["id"] == after
            continue
        if len(data) == limit:
            has_more = True
            break
        data.append(item)
    if not has_begun:
        raise invalid("after", f"Invalid 'after': there is no object with the id '{after}' in this list.")
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": has_more}


def only_query(*names: str, prefix: str = "\0") -> Callable[[Request], None]:
    """Return a dependency that refuses query parameters which nothing here reads."""

    def check(request: Request) -> None:
        for name in request.query_params:
            if name not in names and not name.startswith(prefix):
                raise unknown_parameter(name)

    return check
