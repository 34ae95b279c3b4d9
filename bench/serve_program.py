"""The do-nothing model on Ray Serve, as `bench.ray` compares with it. PORT: where to listen; `stop` ends it."""

from __future__ import annotations

import os
import sys

import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=4, max_ongoing_requests=100)
class DoNothing:
    """What is left is Ray Serve itself."""

    async def __call__(self, request: Request) -> int:
        """The nonce."""
        nonce: int = (await request.json())["nonce"]
        return nonce


def main() -> None:
    """Deploy it, or take all of Serve down."""
    ray.init(address="auto", log_to_driver=False)
    if sys.argv[1:] == ["stop"]:
        serve.shutdown()
        return
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(DoNothing.bind(), name="nothing", route_prefix="/predict")


if __name__ == "__main__":
    main()
