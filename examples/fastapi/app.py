"""A FastAPI service that reports what each request costs to the agent beside it."""

import os

from fastapi import FastAPI

from fingerpost.middleware import FingerpostMiddleware

app = FastAPI()


@app.get("/users/{user_id}/orders")
def orders(user_id: int) -> dict[str, int]:
    """Does some work, so that there is a cost to measure."""
    return {"user": user_id, "orders": sum(range(100_000)) % 7}


app.add_middleware(FingerpostMiddleware, service="shop", host="web-1", socket=os.environ["SHOP_SOCKET"])
