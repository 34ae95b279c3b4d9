"""Every fixed bound of muleteer, in one place, each with its reason. `muleteer config` prints this table.

A limit is not a setting: nobody has to choose it. What a user may choose lives in `spec.settings`.
"""

from __future__ import annotations

from typing import NamedTuple


class Limit(NamedTuple):
    """One bound: `value` in `unit`, and why it is that and not another number."""

    name: str
    value: float
    unit: str
    why: str


LIMITS: dict[str, Limit] = {}


def _integer(name: str, value: int, unit: str, why: str) -> int:
    LIMITS[name] = Limit(name, value, unit, why)
    return value


def _seconds(name: str, value: float, why: str) -> float:
    LIMITS[name] = Limit(name, value, "s", why)
    return value


# HTTP input
URI_BYTES_MAX = _integer("uri_bytes_max", 8 * 1024, "bytes", "what nginx and browsers agree on; routes are short")
HEADER_FIELD_BYTES_MAX = _integer("header_field_bytes_max", 16 * 1024, "bytes", "large cookies and tokens fit")
HEADER_BYTES_MAX = _integer(
    "header_bytes_max", 32 * 1024, "bytes", "bounds memory of a connection before it is trusted"
)
HEADER_FIELDS_MAX = _integer("header_fields_max", 100, "fields", "real clients send under 40; bounds parsing time")
HEADER_TIMEOUT_S = _seconds("header_timeout_s", 10.0, "a slow sender holds a connection this long, never a replica")
BODY_TIMEOUT_BASE_S = _seconds("body_timeout_base_s", 10.0, "grace of a body before its rate is judged")
BODY_BYTES_PER_S_MIN = _integer("body_bytes_per_s_min", 16 * 1024, "bytes/s", "a slow mobile uplink still passes")
WRITE_STALL_S = _seconds("write_stall_s", 30.0, "a reader that takes nothing this long is gone")
KEEP_ALIVE_S = _seconds("keep_alive_s", 75.0, "longer than the 60 s of usual proxies, so that they close first")
LINGER_S = _seconds("linger_s", 2.0, "time for a refused sender to read its answer before the reset")
LINGER_BYTES_MAX = _integer("linger_bytes_max", 1024 * 1024, "bytes", "unread body that a lingering close swallows")
PIPELINE_MAX = _integer("pipeline_max", 16, "requests", "unanswered requests of one connection before reading pauses")
REQUEST_ID_CHARS_MAX = _integer("request_id_chars_max", 128, "characters", "a UUID is 36; goes into every log line")
CHUNK_EXTENSION_BYTES_MAX = _integer(
    "chunk_extension_bytes_max", 4096, "bytes", "nobody uses them; endless ones are an attack"
)
REQUEST_TIMEOUT_S_MAX = _seconds(
    "request_timeout_s_max", 3600.0, "bounds what a client may ask for in x-request-timeout-ms"
)

# JSON input
JSON_DEPTH_MAX = _integer("json_depth_max", 100, "levels", "deeper is an attack on the C stack, not data")

# settings
REPLICAS_MAX = _integer("replicas_max", 1024, "replicas", "of one backend; more is a mistyped number on any machine")

# muleteer.yaml
YAML_BYTES_MAX = _integer("yaml_bytes_max", 4 * 1024 * 1024, "bytes", "40,000 backends; bounds the time of reading")
YAML_DEPTH_MAX = _integer("yaml_depth_max", 20, "levels", "ours has four; the parser is quadratic in depth")
YAML_ALIASES_MAX = _integer("yaml_aliases_max", 1000, "aliases", "shared settings need few; a bomb needs many")
YAML_PROBLEMS_MAX = _integer("yaml_problems_max", 50, "problems", "shown at once; more are one mistake repeated")

# the queue
CALLS_QUEUED_MAX = _integer(
    "calls_queued_max", 10_000, "calls", "hard cap behind the derived bound; about 10 MB of bookkeeping"
)
QUEUED_BYTES_MAX = _integer("queued_bytes_max", 512 * 1024 * 1024, "bytes", "bodies that may wait in one gateway")
SAMPLES_MIN = _integer(
    "samples_min",
    50,
    "calls",
    "a p99 of fewer services is noise; until then `expected`, the warm-up, or one call per slot",
)
SERVICE_WINDOW = _integer("service_window", 1000, "calls", "recent services whose p99 is used: ten beyond the quantile")
CLIENT_SHARE = _integer(
    "client_share", 4, "1/share", "one client holds at most a quarter of slots + queue while others wait"
)
LATE_TURN = _integer(
    "late_turn", 20, "calls", "that pass those that missed the target, until one of these is served: 5 % for them"
)
BATCH_MAX = _integer(
    "batch_max", 512, "calls", "in one batch, unless `batch_max` says less: beyond, a model gains little and holds much"
)
BATCH_BYTES_MAX = _integer(
    "batch_bytes_max", 16 * 1024 * 1024, "bytes", "bodies in one batch: while it is sent, it is held three times over"
)
BATCH_APART_S_MAX = _seconds(
    "batch_apart_s_max", 0.5, "a failed batch is run one by one if that takes no longer; else in halves: others wait"
)
BATCHES_SURE = _integer("batches_sure", 20, "batches", "fewer say little about how answers stray from the fitted line")
BATCHES_REMEMBERED = _integer(
    "batches_remembered", 300, "batches", "the fit of batch latency forgets over about as many; three beyond its p99"
)
RETRY_AFTER_S_MAX = _integer("retry_after_s_max", 60, "s", "a longer prediction is worth nothing")
DEADLINE_TICK_S = _seconds("deadline_tick_s", 0.02, "one timer ends all late calls; well under the 100 ms promised")

# backends that sleep
DEMAND_REPEAT_S = _seconds(
    "demand_repeat_s", 1.0, "a gateway tells again whom nobody serves: so it survives a controller that is replaced"
)
DEMAND_KEPT_S = _seconds(
    "demand_kept_s", 5.0, "a refused call is told for so long: the promise for a controller that comes back"
)

# the state
REVISIONS_KEPT = _integer("revisions_kept", 500, "revisions", "months of changes; bounds the file")
ENGINE_SILENT_S = _seconds(
    "engine_silent_s",
    1.0,
    "the admin API waits no longer for an engine that cannot tell what runs; usually it does so within milliseconds",
)
STATE_RETRY_S = _seconds("state_retry_s", 5.0, "pause before a state file that failed is tried again")
ROLLOUT_TICK_S = _seconds("rollout_tick_s", 1.0, "how often an active rollout is looked at; harm is over this soon")
STATE_BUSY_S = _seconds("state_busy_s", 5.0, "wait for another process that writes the state")

# affinity and shadow
SESSIONS_MAX = _integer("sessions_max", 100_000, "sessions", "remembered in one gateway to say `moved`; about 15 MB")
COMPARE_BYTES_MAX = _integer(
    "compare_bytes_max", 16 * 1024, "bytes", "of two unlike answers together: about 1 ms of the gateway's time"
)
COMPARE_SHARE = _integer("compare_share_percent", 1, "% of time", "what comparing answers may take from requests")
SHADOW_CALLS_MAX = _integer("shadow_calls_max", 256, "calls", "copies in flight in one gateway; more are dropped")
SHADOW_BYTES_MAX = _integer(
    "shadow_bytes_max", 16 * 1024 * 1024, "bytes", "requests and answers held for copies in flight in one gateway"
)
SHADOW_RESERVE = _integer(
    "shadow_reserve", 4, "1/share", "of a backend with traffic of its own, copies leave a quarter of the slots free"
)
SHADOW_SHARE = _integer(
    "shadow_share_percent", 5, "% of time", "that copies may hold the one slot of a backend with traffic of its own"
)
COMPARE_NODES_MAX = _integer(
    "compare_nodes_max", 100_000, "values", "of two answers compared; bounds the time a shadow may take from others"
)

# re-execution
BOUNCES_MAX = _integer("bounces_max", 10, "times", "a call that this many draining replicas gave back is refused")
ATTEMPTS_MAX = _integer("attempts_max", 2, "attempts", "a second death of the same call is likely the call's doing")
RETRY_SHARE = _integer("retry_share_percent", 20, "% of active calls", "re-execution must not become a retry storm")
RETRY_MIN = _integer("retry_min", 3, "calls", "with few active calls a share rounds to nothing")
QUARANTINE_S = _seconds("quarantine_s", 600.0, "time to mend a model that an input kills")
QUARANTINE_ENTRIES_MAX = _integer("quarantine_entries_max", 10_000, "hashes", "bounded memory; the oldest leave first")

# the wire
FRAME_OVERHEAD_BYTES = _integer(
    "frame_overhead_bytes", 64 * 1024, "bytes", "room for metadata above max_body in one frame"
)
LINE_BYTES_MAX = _integer("line_bytes_max", 64 * 1024 * 1024, "bytes", "a routing snapshot of 10,000 backends fits")
LINK_UP_S_MAX = _seconds(
    "link_up_s_max", 0.2, "a gateway that starts waits so long for its replicas before it opens the port"
)
LINK_SILENCE_S = _seconds(
    "link_silence_s", 3.0, "a network link whose other end acknowledges nothing for so long is dead; asked every second"
)
LINK_DIAL_S = _seconds("link_dial_s", 3.0, "a host that does not answer a dial so long is not there now")
HELLO_BYTES_MAX = _integer("hello_bytes_max", 4096, "bytes", "read from a network before it has shown the secret")
HELLO_S_MAX = _seconds("hello_s_max", 5.0, "a connection from a network shows the secret by then, or is closed")
STRANGERS_MAX = _integer("strangers_max", 64, "connections", "to one replica that have not shown the secret yet")
LINK_RETRY_S = _seconds("link_retry_s", 0.05, "pause before a gateway dials a dead address again")
CREDIT_MAX = _integer(
    "credit_max", 4, "calls", "calls sent ahead to a very short model hide the round trip; more only wait there"
)
CREDIT_SERVICE_S_MAX = _seconds(
    "credit_service_s_max", 0.001, "up to this the round trip is what a call costs: calls are sent ahead as they come"
)
AHEAD_SERVICE_S_MAX = _seconds(
    "ahead_service_s_max",
    0.02,
    "while calls wait and 99 % of them take no longer, each slot has the next one sent ahead: late binding loses less",
)
AHEAD_ITEM_S_MAX = _seconds(
    "ahead_item_s_max",
    0.002,
    "while full batches wait and a call in them takes no longer, each slot has the next one sent ahead: to hand a call "
    "over takes some 20 µs at either end, which is 1 % then",
)
AHEAD_S_MAX = _seconds(
    "ahead_s_max", 0.1, "calls sent ahead to a replica that is stuck this long in another are taken back"
)
SHARE_FADE_S = _seconds(
    "share_fade_s", 0.5, "over which one of several gateways averages what the others take of the replicas"
)
TAKEOVER_S = _seconds(
    "takeover_s", 0.05, "a connection that waits so long for one of several gateways is taken by another"
)
SCATTER_MAX = _integer(
    "scatter_max", 8, "links", "equally idle, among which one of several gateways draws: so two seldom choose the same"
)

# a Ray cluster
RAY_CONNECT_S = _seconds("ray_connect_s", 60.0, "to join a cluster, or to upload a model's folder")
RAY_CALL_S = _seconds("ray_call_s", 10.0, "a call into Ray that takes longer has failed; nothing waits behind it")
RAY_RETRY_S = _seconds("ray_retry_s", 1.0, "pause before a Ray that did not answer is asked again")
RAY_LOOK_S = _seconds("ray_look_s", 2.0, "how often nodes and free resources are looked at")
RAY_PENDING_S = _seconds(
    "ray_pending_s", 1.0, "an actor that is not placed after so long is said to wait, and for what"
)
RAY_ORPHAN_S = _seconds(
    "ray_orphan_s",
    24 * 3600.0,
    "a replica on a cluster waits so long for a server to come back, a night's outage included, then its resources are "
    "free again",
)

# supervision
BACKOFF_FIRST_S = _seconds("backoff_first_s", 0.5, "first pause after a start that failed")
BACKOFF_MAX_S = _seconds("backoff_max_s", 30.0, "longest pause between failing starts")
FAILED_STARTS_MAX = _integer("failed_starts_max", 5, "starts", "in a row without becoming ready: the backend is FAILED")
BACKOFF_ESSENTIAL_MAX_S = _seconds(
    "backoff_essential_max_s", 5.0, "longest pause of a process that is never given up (gateway, controller)"
)
RESTART_QUICK_S = _seconds("restart_quick_s", 1.0, "a death this soon after ready, twice in a row, earns a small pause")
RESTART_PAUSE_MAX_S = _seconds(
    "restart_pause_max_s", 0.5, "longest pause after a death that followed ready; replacement is promised within 1 s"
)
STARVED_PAUSE_S = _seconds("starved_pause_s", 1.0, "pause when the machine has no process, memory or descriptor left")
LEAVE_S = _seconds(
    "leave_s", 3.0, "from `failed`, or from closing its control channel, to the end of a process; then SIGKILL"
)
CONTROL_LINE_BYTES_MAX = _integer(
    "control_line_bytes_max", 1024 * 1024, "bytes", "one message of a child; the largest is `ready` with its file list"
)
CONTROL_UNREAD_BYTES_MAX = _integer(
    "control_unread_bytes_max", 16 * 1024 * 1024, "bytes", "a controller that leaves this much unread is hung"
)
LISTEN_BACKLOG = _integer("listen_backlog", 4096, "connections", "what clients may open while a process is replaced")
OUTPUT_READ_BYTES = _integer(
    "output_read_bytes", 16 * 1024, "bytes", "read from one pipe in one turn: a child that floods delays nobody"
)
OUTPUT_LINE_BYTES_MAX = _integer(
    "output_line_bytes_max", 8 * 1024, "bytes", "longer lines are cut in the foreground; the log has them whole"
)
FOREGROUND_BYTES_MAX = _integer(
    "foreground_bytes_max",
    1024 * 1024,
    "bytes",
    "kept for a terminal that does not read; the logs have the rest",
)
ABORT_DUMP_S = _seconds("abort_dump_s", 0.5, "time for the stack dump of a hung replica before SIGKILL")
HANG_GRACE_S = _seconds("hang_grace_s", 0.5, "a call this much over its limit is hung, not slow")
LOG_TAIL_BYTES = _integer("log_tail_bytes", 4096, "bytes", "what status shows of a failed start")
LOG_FILE_BYTES_MAX = _integer("log_file_bytes_max", 16 * 1024 * 1024, "bytes", "per process, one older file is kept")
TICK_S = _seconds("tick_s", 0.25, "how often slow checks run; nothing a caller waits for")

# the machine
MEMORY_GUESS = _integer(
    "memory_guess",
    256 * 1024 * 1024,
    "bytes",
    "of a model of unknown size, or an eighth of the budget, or what others need; twice that is set aside",
)
MEMORY_RESERVE = _integer(
    "memory_reserve_percent", 10, "% of what is free", "where no budget is declared, left to the front and to others"
)
METER_S = _seconds(
    "meter_s", 1.0, "how often CPU time and children of a replica are read, and memory at most if it rests"
)
METER_SHARE = _integer("meter_share_percent", 1, "% of a core", "what reading the memory of all replicas may take")
DRIVER_ANSWER_S_MAX = _seconds("driver_answer_s_max", 5.0, "a driver's tool that hangs must not hold up the controller")
PRIORITY_RETRY_S = _seconds(
    "priority_retry_s", 0.15, "the kernel takes one change of a session's priority in 0.1 s from those who are not root"
)

# the controller
ADMIN_BODY_BYTES_MAX = _integer(
    "admin_body_bytes_max", 8 * 1024 * 1024, "bytes", "a declaration of 10,000 backends as JSON fits"
)
ADMIN_HEAD_BYTES_MAX = _integer("admin_head_bytes_max", 32 * 1024, "bytes", "as of requests to models")
ADMIN_BODY_S = _seconds("admin_body_s", 10.0, "a sender of the admin API that is slower is cut off")
ADMIN_CONNECTIONS_MAX = _integer(
    "admin_connections_max", 256, "connections", "commands, clients and a dashboard; more are answered 503"
)
ACKNOWLEDGE_S_MAX = _seconds(
    "acknowledge_s_max", 2.0, "wait for a gateway to let go of a leaving replica; then its own DRAIN does it as well"
)
GATEWAY_DIAL_S = _seconds("gateway_dial_s", 0.1, "pause before the controller dials a gateway again")
GATEWAY_ANSWER_S_MAX = _seconds("gateway_answer_s_max", 1.0, "a gateway that is silent this long is left out of status")
WEAR_AGE_S_MIN = _seconds(
    "wear_age_s_min", 5.0, "a replica over max_rss serves at least this long: bounds the churn of a max_rss set too low"
)
SIZING_TICK_S = _seconds(
    "sizing_tick_s", 0.5, "how often loads are asked for; under half of the shortest start-up time"
)
SIZING_STEPS_MAX = _integer(
    "sizing_steps_max", 64, "backends", "sized in one tick, half a millisecond each; of more, each comes round later"
)
SWEEP_MAX = _integer(
    "sweep_max", 64, "backends", "looked at in one tick for memory, files and drift; of more, each comes round later"
)
FILES_WATCHED_MAX = _integer("files_watched_max", 1000, "files", "source files looked at per backend and tick")

# the replica
ANSWER_BYTES_MAX = _integer(
    "answer_bytes_max", 64 * 1024 * 1024, "bytes", "an answer is held whole in replica and gateway; as max_body"
)
REPLICA_EXIT_S = _seconds(
    "replica_exit_s", 2.0, "time for exit hooks and threads of a stopping model; then it leaves without them"
)
