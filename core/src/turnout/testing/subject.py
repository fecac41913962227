"""The provider under test on one of its devices: asked, built and run as turnout does it, without discovery in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from turnout.assign import ask
from turnout.device import Device
from turnout.errors import NoProvider
from turnout.execute import CompileFailed, build
from turnout.formats import open_source
from turnout.ledger import Candidate, Ledger
from turnout.plan import Plan, plan
from turnout.program import Program
from turnout.provider import Provider, Yes
from turnout.testing.result import Result

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["Subject"]


@dataclass
class Subject:
    """A provider and a device of its. `swept`: what the sweep over all operator cases found, once it is through.

    share: (2, 5) sweeps over the third of five shares of the cases, as one of several processes does.
    """

    provider: Provider
    device: Device
    share: tuple[int, int] = (0, 1)
    swept: list[Result] | None = field(default=None, repr=False)

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.provider, self.device)

    @property
    def rewrites(self) -> bool:
        """Whether it may take nodes by a claim or a rewrite that it refuses when asked one by one."""
        kind = type(self.provider)
        return kind.lower is not Provider.lower or kind.claims is not Provider.claims

    def refusal(self, model: ir.Model) -> str | None:
        """Why it does not take all of a model; None where it does. `supports` is asked for each node, bodies included.

        Raises what the provider raises when it is asked.
        """
        nodes = list(model.graph)
        if not nodes:
            return "there is nothing to run in it: turnout itself computes constants"
        ledger = Ledger()
        for node in nodes:
            verdict = ask(node, model.graph, self.candidate, ledger)
            if ledger.general:
                raise RuntimeError(ledger.general[0])
            if not isinstance(verdict, Yes):
                return verdict.reason
        return None

    def program(self, model: ir.Model) -> Program:
        """The model, compiled for the device. Raises TurnoutError: CompileError where it does not compile."""
        return self.built(plan(model, [self.candidate]))

    def built(self, made: Plan) -> Program:
        """A plan, compiled. Raises TurnoutError."""
        try:
            return build(made, {})
        except CompileFailed as failed:
            raise failed.error from failed.__cause__

    def rewritten(self, proto: onnx.ModelProto) -> Program | None:
        """A model that is taken as a whole by claims and rewrites, compiled; None where it is not. Raises TurnoutError."""
        if not self.rewrites:
            return None
        model = open_source(proto).model()  # a plan may expand functions in it
        if not any(True for _ in model.graph):
            return None
        try:
            made = plan(model, [self.candidate])
        except NoProvider:
            return None
        if any("was expanded" in remark for remark in made.ledger.general):
            return None
        return self.built(made)

    def opened(self, proto: onnx.ModelProto) -> Any:
        """A `turnout.Model` of it, as `turnout.load(..., device=...)` gives. Raises TurnoutError."""
        from turnout.explain import explanation
        from turnout.model import Interface, Model

        source = open_source(proto)
        made = plan(source.model(), [self.candidate])
        return Model(source.origin(), Interface.of(made), self.built(made), lambda: explanation(source.name, made))
