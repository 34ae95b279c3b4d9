"""The article's last program: what was `ray` and `serve` is `muleteer`, and nothing else has changed.

The address comes from outside, so that two tests can run at once; the article has it in the program.
"""

import sys

import fancy_model
import fancy_model_v2

import muleteer

# the article: serve.start(detached=True, http_options={"host": "0.0.0.0", "port": 8000})
client = muleteer.start(detached=True, http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})

client.create_backend("lr:v1", fancy_model.FancyModel)
client.create_endpoint("fancy_predictor", backend="lr:v1", route="/predict")

client.create_backend("lr:v2", fancy_model_v2.FancyModel)
client.set_traffic("fancy_predictor", {"lr:v1": 0.9, "lr:v2": 0.1})
