"""The article's last program as it was written. MULETEER_ENGINE=ray puts the replicas on the cluster of RAY_ADDRESS;
without it they are processes of this machine. PORT: where to listen.
"""

import os

from fancy_model import FancyModel

import muleteer

client = muleteer.start(detached=True, http_options={"host": "127.0.0.1", "port": int(os.environ.get("PORT", "8000"))})
client.create_backend("lr:v1", FancyModel, replicas=2)
client.create_endpoint("fancy_predictor", backend="lr:v1", route="/predict")
