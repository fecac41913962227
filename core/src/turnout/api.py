"""What a user calls: load and devices. (`doctor` is in checkup.py: a submodule of that name would hide the function.)"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from turnout import plugins
from turnout.device import Device
from turnout.errors import InvalidInput, NoSuchDevice, SlowPathWarning
from turnout.ledger import Candidate
from turnout.probe import Probed, probe_all
from turnout.provider import Provider
from turnout.verified import wrong

if TYPE_CHECKING:
    from turnout.formats import Accuracy, Source
    from turnout.model import Model
    from turnout.plan import NotUsed, Partition, Plan
    from turnout.whole import Route

__all__ = ["devices", "load"]

log = logging.getLogger("turnout")


def devices() -> list[Device]:
    """Every device that can be used here, best first. `turnout.doctor()` says why others are not among them."""
    found = [(probed.provider, device) for probed in probe_all() for device in probed.devices]
    return [device for _, device in sorted(found, key=lambda one: _rank(*one))]


def load(
    model: Any,
    *,
    device: str | Sequence[str] | None = None,
    accuracy: Accuracy = "fast",
    options: Mapping[str, Any] | None = None,
) -> Model:
    """Reads, plans and compiles a model.

    model: a path (of a file, or of a folder that a format knows), the file's bytes, an `onnx.ModelProto` or an `onnx_ir.Model`.
    device: None lets turnout choose, best first, with the reference provider as the last resort. A name ("cuda", "cuda:1") is a
        demand: every node runs there, or NoProvider. A list is a permission: these devices, in this order, and no other.
    accuracy: what a format may do where the file leaves it open, as GGUF does: "fast" lets products round their activations to 8 bits,
        "near" to what float16 holds, and "exact" computes in float32 throughout; "auto" is "near" for a small model, else "fast". An
        ONNX file says itself what it computes.
    options: a section per provider or format, checked by its owner: `{"cpu": {"threads": 2}}`.

    Raises UnknownFormat and InvalidModel for what is no model, NoSuchDevice and NoProvider for what cannot be had, CompileError where
    the one device that was named fails to build what it had claimed, InvalidInput for options that nobody knows.
    """
    start = time.perf_counter()
    from turnout.formats import Accuracy, open_source
    from turnout.kept import kept_for

    if accuracy not in (names := get_args(Accuracy)):
        known = ", ".join(map(repr, names))
        raise InvalidInput(f"accuracy={accuracy!r} is none of {known}", hint="'fast' is the default")
    candidates, not_used = _candidates(device)
    checked = _options(options or {})
    source = open_source(model, accuracy=accuracy, options=checked)
    name = source.name
    candidates = _ranked(candidates, source.name) if device is None else candidates
    kept = kept_for(source, candidates, checked)
    found = kept.open() if kept is not None else None
    if found is not None:
        made, counts = found
        _say(made, counts, "taken from the last load", time.perf_counter() - start)
        return made
    from turnout.explain import explanation
    from turnout.model import Interface, Model

    plan, program = _compile(source, candidates, not_used, checked)
    made = Model(source.origin(), Interface.of(plan), program, lambda: explanation(name, plan))
    if kept is not None:
        kept.keep(made, plan, program)
    plan.release_weights()
    _say(made, plan.nodes_per_device(), "planned and compiled", time.perf_counter() - start, plan.whole)
    if device is None:
        _warn(made, plan)
    return made


def _compile(source: Source, candidates: Sequence[Candidate], not_used: Sequence[NotUsed], options: Mapping[str, Any]) -> Any:
    """Plans and builds: the operator graph on the devices that run operators, or the source as it is on one that takes it whole."""
    from turnout.whole import first_that_works, routes

    tries, refused = routes(source, candidates)

    def run(route: Route, elsewhere: list[NotUsed]) -> Any:
        others = [*not_used, *refused, *elsewhere]
        if route.whole is not None:
            return _open_whole(source, route.candidates[0], others, options)
        return _compile_graph(source, route.candidates, others, options)

    return first_that_works(tries, run, source.name)


def _open_whole(source: Source, candidate: Candidate, not_used: Sequence[NotUsed], options: Mapping[str, Any]) -> Any:
    from turnout.execute import open_whole
    from turnout.program import of_one
    from turnout.whole import whole_plan

    executable = open_whole(source, candidate, options.get(candidate.provider.name))
    program = of_one(executable, candidate.device, len(executable.inputs), len(executable.outputs))
    return whole_plan(source, executable, candidate, not_used), program


def _compile_graph(source: Source, candidates: Sequence[Candidate], not_used: Sequence[NotUsed], options: Mapping[str, Any]) -> Any:
    """Plans and builds; nodes that fail to compile somewhere are planned elsewhere, unless one device was all that was allowed."""
    from turnout.execute import CompileFailed, build
    from turnout.plan import plan

    graph = source.model()
    barred: dict[Any, str] = {}
    while True:
        made = plan(graph, candidates, barred=barred, not_used=not_used)
        try:
            return made, build(made, options, source.file())
        except CompileFailed as failed:
            if len(candidates) == 1:
                failed.error.hint = failed.error.hint or f"let another device help: device=[{candidates[0].provider.name!r}, ...]"
                raise failed.error from failed.__cause__
            name = failed.partition.device.name
            log.warning("%s: planning again without %d nodes on %s: %s", source.name, len(failed.nodes), name, failed.error.message)
            fresh = {(node, name): failed.reason for node in failed.nodes}
            if not set(fresh) - set(barred):
                raise failed.error from failed.__cause__
            barred |= fresh


def _candidates(device: str | Sequence[str] | None) -> tuple[list[Candidate], list[NotUsed]]:
    """The devices that may be used, in order, and why others may not."""
    if device is None:
        return _automatic()
    if not isinstance(device, (str, Sequence)):
        raise NoSuchDevice(f"device={device!r} is neither a name nor a list of names", hint='such as "cpu", "cuda:1" or ["cuda", "cpu"]')
    names = [device] if isinstance(device, str) else list(device)
    if not names:
        raise NoSuchDevice("device=[] allows no device at all", hint="name one, or leave device out to let turnout choose")
    return [_named(name) for name in names], []


def _automatic() -> tuple[list[Candidate], list[NotUsed]]:
    from turnout.plan import NotUsed
    from turnout.reference import REFERENCE

    candidates: list[Candidate] = []
    not_used: list[NotUsed] = []
    for probed in probe_all():
        usable = [one for one in probed.devices if one.automatic]
        if probed.error is not None:
            not_used.append(NotUsed(probed.provider.name, probed.error.message))
        elif not usable:
            not_used.append(NotUsed(probed.provider.name, "it is used only where it is named"))
        else:
            device = usable[0]
            candidates.append(Candidate(probed.provider, device, probed.provider is REFERENCE, wrong(device, probed.provider)))
            not_used += [NotUsed(one.name, f"{usable[0].name} goes first; name it to use it") for one in usable[1:]]
    return sorted(candidates, key=lambda one: _rank(one.provider, one.device)), not_used


def _rank(provider: Provider, device: Device) -> int:
    return provider.rank if device.rank is None else device.rank


def _ranked(candidates: list[Candidate], model: str) -> list[Candidate]:
    """The order that a plugin's `turnout_rank` gives, else turnout's own: by the providers' rank."""
    order = plugins.first("turnout_rank", devices=[one.device for one in candidates], model=model)
    if order is None:
        return candidates
    by_name = {one.device: one for one in candidates}
    ranked = [by_name[device] for device in order if device in by_name] if isinstance(order, Sequence) else []
    if not ranked:
        log.warning("a plugin's turnout_rank gave %r, which leaves no device; turnout's own order is used", order)
    return ranked or candidates


def _named(name: str) -> Candidate:
    if not isinstance(name, str):
        raise NoSuchDevice(f"{name!r} is no device name", hint='names are strings such as "cpu" or "cuda:1"')
    provider_name, _, index = name.partition(":")
    provider = next((one for one in plugins.providers() if one.name == provider_name), None)
    if provider is None:
        broken = [problem.message for problem in plugins.problems()]
        also = f"; a plugin here is broken: {broken[0]}" if broken else ""
        raise NoSuchDevice(f"no installed plugin offers a device {name!r}{also}", hint=plugins.install_hint(name))
    (probed,) = probe_all([provider])
    if probed.error is not None:
        raise NoSuchDevice(f"there is no device {name!r}: {probed.error.message}", hint=probed.error.hint)
    found = next((one for one in probed.devices if not index or str(one.index) == index), None)
    if found is None:
        raise NoSuchDevice(f"there is no device {name!r}", hint=_offered(probed))
    return Candidate(provider, found, wrong=wrong(found, provider))


def _offered(probed: Probed) -> str:
    names = ", ".join(device.name for device in probed.devices)
    return f"{probed.provider.name} offers: {names}" if names else f"{probed.provider.name} found no device"


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Each owner's section as its own model; sections that nobody knows are errors, since a misspelt one would be ignored."""
    from turnout.formats.choose import formats

    if not isinstance(given, Mapping):
        raise InvalidInput(f"options={given!r} is no mapping", hint='a section per provider or format: {"cpu": {"threads": 2}}')
    owners: list[Any] = [*formats(), *plugins.providers()]
    known = {one.name: one.Options for one in owners if one.Options is not None}
    for name in given:
        if name not in known:
            have = ", ".join(sorted(known)) or "none"
            raise InvalidInput(f"options for {name!r}, but nothing installed of that name takes any", hint=f"these do: {have}")
    return {name: _section(name, kind, given.get(name, {})) for name, kind in known.items()}


def _section(name: str, kind: Any, given: Any) -> Any:
    from pydantic import ValidationError

    if isinstance(given, kind):
        return given
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        fields = ", ".join(kind.model_fields)
        raise InvalidInput(f"options[{name!r}]{_wrong(error.errors()[0])}", hint=f"its options are: {fields}") from None


def _wrong(first: Any) -> str:
    """What pydantic found in a section, in words for whoever wrote it."""
    if not first["loc"]:
        return f"={first['input']!r:.80} is no mapping"
    option, said = first["loc"][0], first["msg"]
    if first["type"] == "extra_forbidden":
        return f": there is no option {option!r}"
    if not said.startswith("Input "):
        return f": {option}: {said}"
    return f": {option}={first['input']!r:.80} {said.removeprefix('Input ').partition(', unable to')[0]}"


def _say(model: Model, counts: Mapping[str, int], how: str, seconds: float, whole: Partition | None = None) -> None:
    """One log line, one event."""
    where = ", ".join(f"{count} nodes on {name}" for name, count in counts.items()) or "no nodes"
    if whole is not None:
        where = f"{whole.whole} on {whole.device}"
    log.info("%s: %s; %s in %.2f s", model.name, where, how, seconds)
    event = {"event": "load", "model": model.name, "fingerprint": model.fingerprint, "nodes": counts, "seconds": seconds}
    for _ in plugins.calls("turnout_observe", event=event):
        pass


def _warn(model: Model, plan: Plan) -> None:
    """A warning where nodes landed on the reference provider, and nobody asked for it."""
    if slow := plan.nodes_per_device().get("reference:0"):
        reason = next(iter(_slow_reasons(plan)), "no other device takes them")
        warnings.warn(
            f"{model.name}: {slow} nodes run on the reference provider, which is slow: {reason} (model.explain() has the rest)",
            SlowPathWarning,
            stacklevel=3,
        )


def _slow_reasons(plan: Plan) -> Iterator[str]:
    for step in plan.walk():
        if step.device.provider == "reference":
            for node in step.nodes:
                for name, reason in plan.ledger.refusals(node):
                    yield f"{name}: {reason}"
