"""Operations that tell why."""

from __future__ import annotations

from muleteer.control import change
from muleteer.control.admin.operation import Ask, Control, Operation
from muleteer.control.change import NotFoundError
from muleteer.control.explain import EndpointExplanation, Explanation


async def _backend(control: Control, ask: Ask) -> Explanation:
    found = await control.explain(ask.name)
    if found is None:
        raise NotFoundError(f"there is no backend {ask.name!r}")
    return found


async def _endpoint(control: Control, ask: Ask) -> EndpointExplanation:
    spec = change.endpoint_of(control.commands.declared, ask.name)
    shadows = [] if spec.shadow is None else [spec.shadow.backend]
    traffic = dict.fromkeys(shadows, 0.0) | dict(spec.traffic)
    explained = [await control.explain(name) for name in traffic]
    return EndpointExplanation(spec.name, spec.route, traffic, tuple(each for each in explained if each is not None))


OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/backends/{name}/explain",
        call=_backend,
        answer=Explanation,
        summary="Why it has as many replicas, as long a queue and as large batches as it has: words and numbers.",
    ),
    Operation(
        method="GET",
        path="/v1/endpoints/{name}/explain",
        call=_endpoint,
        answer=EndpointExplanation,
        summary="The same for each backend of an endpoint.",
    ),
)
