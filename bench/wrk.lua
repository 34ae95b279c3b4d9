-- One nonce per request and thread; prints the figures as one line of JSON. Latencies are in microseconds.
local nonce = 0

function init(args)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  nonce = nonce + 1
  return wrk.format(nil, nil, nil, '{"nonce":' .. nonce .. "}")
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,"p50_us":%.0f,"p99_us":%.0f,"max_us":%.0f,"failed":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
