"""The article's last program on the Ray Serve of today: `create_backend` and `create_endpoint` are gone, a deployment
and `serve.run` took their place, and reading the request is the model's own business. PORT: where to listen.
"""

import os
from pathlib import Path

import ray
from fancy_model import FancyModel
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse


@serve.deployment(num_replicas=2)
class FancyPredictor:
    def __init__(self):
        self.model = FancyModel()

    async def __call__(self, request: Request):
        return JSONResponse(self.model.predict(**await request.json()))


ray.init(address="auto", runtime_env={"working_dir": str(Path(__file__).resolve().parent)}, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ.get("PORT", "8000"))})
serve.run(FancyPredictor.bind(), name="fancy_predictor", route_prefix="/predict")
