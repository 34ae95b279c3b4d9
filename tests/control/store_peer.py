"""Processes that write one state file and are killed. Run as `python store_peer.py VERB PATH …`; prints JSON."""

import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

from muleteer.base.errors import ConflictError, StateError
from muleteer.control.rollout import Policy, Rollout
from muleteer.control.store import Store
from muleteer.spec.settings import BackendSettings, BackendSpec, Declared


def declare(number, backends=200):
    """A declaration of many pages in which everything carries `number`."""
    settings = BackendSettings(timeout=number + 1.0)
    return Declared(
        backends=tuple(
            BackendSpec(name=f"b{i}", target="m.py:M", base_dir="/", settings=settings) for i in range(backends)
        )
    )


def rollout(number):
    return Rollout(endpoint="e", old="a", new="b", before={"a": 1.0}, policy=Policy(), looks=number)


def number_in(store):
    """The number that everything carries; raises if it is a mixture."""
    current, rollouts = store.current(), store.load_rollouts()
    if current is None:
        assert rollouts == {}
        return 0
    numbers = {int(backend.settings.timeout) - 1 for backend in current.declared.backends}
    numbers |= {rollouts["e"].looks, int(current.entry.what), current.entry.id}
    assert len(numbers) == 1, numbers
    ids = [entry.id for entry in store.history(1000)]
    assert ids == list(range(ids[0], ids[-1] - 1, -1)), ids
    return numbers.pop()


def commit_for_ever(path, acknowledge):
    store = Store.open(path)
    number = number_in(store)
    while True:
        number += 1
        store.commit(declare(number), who="peer", what=str(number), rollouts={"e": rollout(number)})
        os.write(acknowledge, number.to_bytes(4))


def kill(path, rounds, seed):
    """Fork a writer, kill it at a random moment, look at what it left; again and again."""
    generator, seen = random.Random(seed), 0
    at_rest = 0  # rounds in which the kill came between an acknowledgement and the next transaction's end
    for turn in range(rounds):
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            commit_for_ever(path, theirs)
        os.close(theirs)
        acknowledged = os.read(ours, 4) if turn % 2 else b""  # every other time it has begun, however slow the machine
        time.sleep(generator.uniform(0, 0.04))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        acknowledged += os.read(ours, 1 << 16)
        os.close(ours)
        last = int.from_bytes(acknowledged[-4:]) if acknowledged else seen
        store = Store.open(path)
        found = number_in(store)
        store.close()
        assert last <= found <= last + 1, (last, found)
        at_rest += found == last
        seen = found
    print(json.dumps({"revisions": seen, "old": at_rest, "new": rounds - at_rest}))


def count(path, writers, each):
    """Writers that add one to what they read, and try again where another was quicker."""
    pids = []
    for _ in range(writers):
        pid = os.fork()
        if pid == 0:
            store = Store.open(path, busy_s=60)  # a disk may be slow
            done = conflicts = 0
            while done < each:
                current = store.current()
                revision = current.entry.id if current else 0
                number = int(current.declared.backends[0].settings.timeout) if current else 1
                try:
                    store.commit(declare(number, 1), who="w", what="add one", expected_revision=revision)
                    done += 1
                except ConflictError:
                    conflicts += 1
            store.close()
            os._exit(0 if conflicts < 10_000 else 1)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    store = Store.open(path)
    current = store.current()
    print(
        json.dumps(
            {
                "codes": codes,
                "number": int(current.declared.backends[0].settings.timeout) - 1,
                "revision": current.entry.id,
            }
        )
    )
    store.close()


def open_at_once(path, rounds, openers):
    """Processes that open one file in the same moment, a new file each round; prints what each said."""
    said = []
    for turn in range(rounds):
        words, gate = os.pipe(), os.pipe()
        pids = []
        for _ in range(openers):
            pid = os.fork()
            if pid == 0:
                os.close(gate[1])
                os.read(gate[0], 1)  # ends for all of them when the parent closes its end
                try:
                    Store.open(path.with_name(f"{turn}.sqlite"), busy_s=60).close()
                except StateError as error:
                    os.write(words[1], f"{error}\n".encode())
                os._exit(0)
            pids.append(pid)
        for end in (*gate, words[1]):
            os.close(end)
        for pid in pids:
            os.waitpid(pid, 0)
        with os.fdopen(words[0]) as lines:
            said += lines.read().splitlines()
    print(json.dumps(said))


def limited(path, size):
    """Commit until no file may grow any more, then say what is there."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    store = Store.open(path)
    last, message = 0, ""
    try:
        for number in range(1, 10_000):
            store.commit(declare(number), who="peer", what=str(number), rollouts={"e": rollout(number)})
            last = number
    except StateError as error:
        message = str(error)
    found = number_in(store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.commit(declare(last + 1), who="peer", what=str(last + 1), rollouts={"e": rollout(last + 1)})
    print(json.dumps({"last": last, "found": found, "message": message, "after": number_in(store)}))
    store.close()


if __name__ == "__main__":
    verb, path, *numbers = sys.argv[1:]
    verbs = {"kill": kill, "count": count, "open": open_at_once, "limited": limited}
    verbs[verb](Path(path), *(int(number) for number in numbers))
