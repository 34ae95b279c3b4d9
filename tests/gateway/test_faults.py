"""Each fault of a replica, over real sockets: what the caller gets, what the model saw, what is left behind."""

from muleteer.testing.scripted_replica import Answer, Die

ANSWER = Answer()


def once(action, then=ANSWER):
    """A script that does `action` to the first call that any replica of the rig gets, and `then` to the others."""
    spent = []

    def script(call):
        if spent:
            return then
        spent.append(call)
        return action

    return script


def test_an_answer_is_the_models_bytes(rig):
    async def test(rig):
        await rig.start(1, script=lambda call: Answer(b'{"said":' + call.body + b"}"))
        request = await rig.send(b'"hello"').outcome()
        assert (request.status, request.response.body) == (200, b'{"said":"hello"}')
        assert request.response.headers == b"muleteer-backend: model\r\nmuleteer-attempts: 1\r\n"
        assert rig.replicas[0].calls[0].meta == {"id": request.head.request_id}
        assert 29_000 < rig.replicas[0].calls[0].budget_ms <= 30_000
        await rig.quiet()

    rig(test)


def test_a_call_whose_replica_died_is_run_once_more_elsewhere(rig):
    async def test(rig):
        await rig.start(2, script=once(Die(stay_dead=True)))
        request = await rig.send().outcome()
        assert (request.status, request.attempts) == (200, 2)
        assert sorted(len(replica.calls) for replica in rig.replicas) == [1, 1]
        assert rig.backend.calls.re_executed == 1
        assert rig.aborts == []
        await rig.quiet()

    rig(test)
