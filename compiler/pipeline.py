"""The stages of the compiler and the list of its passes, and nothing else.

    spec.yaml -> Spec -> Graph -> passes -> Plan -> Program -> files

`plan_specs` goes as far as the plan, for any number of specs in one process; `build` to the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..spec.base import record_reads
from ..spec.consumption import unread_keys
from ..spec.diagnostics import Diagnostic, SpecError
from ..spec.load import locate, read_spec
from ..spec.nodes import SourceMap
from .frontend.model import build_graph, build_model
from .ir.graph import Graph
from .ir.text import print_graph
from .passes.choose_attention import choose_attention, unfuse_attention
from .passes.fuse_add_norm import fuse_add_norm
from .passes.fuse_gate_up import fuse_gate_up
from .passes.fuse_linear_cross_entropy import fuse_linear_cross_entropy
from .passes.fuse_qkv import fuse_qkv
from .passes.fuse_rope_attention import fuse_rope_attention
from .planner.given import GivenPlan, carried_spec, faults_of, not_kept, pinned, read_plan, spec_sha256
from .planner.plan import DiagnosticFacts, ModelFacts, Plan

if TYPE_CHECKING:
    from ..spec.document import Spec
    from .emit.tree import Tree
    from .planner.serve_plan import ServeOutcome
    from .planner.train_plan import TrainOutcome

PASSES: tuple[Callable[[Graph], Graph], ...] = (
    fuse_qkv,
    fuse_gate_up,
    choose_attention,
    fuse_linear_cross_entropy,
)
"""In this order, for every spec; none of these needs another before it."""
KERNEL_PASSES: dict[str, Callable[[Graph], Graph]] = {
    "add_rms_norm": fuse_add_norm,
    "causal_attention": fuse_rope_attention,  # after fuse_qkv, whose output it reads
}
"""Kernel of the program (compiler/kernels/table.py) -> the pass that shows it in the graph, after PASSES."""

EXIT_FINE, EXIT_SPEC_ERROR, EXIT_NOTHING_FITS = 0, 1, 3
NOTHING_FITS = frozenset({"P201", "P220", "P221"})
"""Codes of specs that are right and that the machine cannot hold."""
PLANNER_SECTIONS = ("hardware", "parallel", "assume")


@dataclass(frozen=True)
class PlanEntry:
    """One spec's answer: the plan with its diagnostics, and what the report tells beyond it."""

    plan: Plan
    diagnostics: tuple[Diagnostic, ...]
    spec: Spec | None = None
    sources: SourceMap | None = None
    train: TrainOutcome | None = None
    serve: ServeOutcome | None = None

    @property
    def exit_code(self) -> int:
        errors = {each.code for each in self.diagnostics if each.severity == "error"}
        if not errors:
            return EXIT_FINE
        return EXIT_NOTHING_FITS if errors <= NOTHING_FITS else EXIT_SPEC_ERROR


@dataclass(frozen=True)
class BuildResult:
    """A program as texts, with the plan it follows. `tree` is None where errors stand against it."""

    entry: PlanEntry
    tree: Tree | None
    diagnostics: tuple[Diagnostic, ...]
    out_dir: Path


def plan_specs(
    paths: Sequence[str | Path], overrides: Sequence[str] = (), *, dump_ir: Path | None = None
) -> list[PlanEntry]:
    """One entry a spec, in order; a spec that cannot be planned does not stop the rest."""
    several = len(paths) > 1
    return [plan_file(Path(path), overrides, dump_ir=_folder(dump_ir, path, several=several)) for path in paths]


def plan_file(path: Path, overrides: Sequence[str] = (), *, dump_ir: Path | None = None) -> PlanEntry:
    """Plan one spec."""
    return _Compilation(path, overrides, dump_ir=dump_ir).plan()


def price_plan(plan_file: Path) -> PlanEntry:
    """A plan that carries its spec (`llmc plan --out`), edited or not, with its layout priced anew."""
    return _Compilation(plan_file, (), is_plan=True, dump_ir=None).price()


def build(
    path: str | Path,
    out_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    plan_file: Path | None = None,
    dump_ir: Path | None = None,
) -> BuildResult:
    """Plan one spec and render its program for `out_dir` (build/NAME if not given), without writing it (emit/tree.py does).

    With `plan_file` the layout is that plan's, priced anew.
    """
    compilation = _Compilation(Path(path), overrides, plan_file=plan_file, dump_ir=dump_ir)
    name = compilation.spec.name if compilation.spec is not None else Path(path).stem
    return compilation.build(Path("build", name) if out_dir is None else Path(out_dir))


class _Compilation:
    """One spec on its way through the stages, with what it was told so far."""

    def __init__(
        self,
        path: Path,
        overrides: Sequence[str],
        *,
        plan_file: Path | None = None,
        is_plan: bool = False,
        dump_ir: Path | None,
    ) -> None:
        self.path = path
        self.overrides = overrides
        self.dump = _Dump(dump_ir)
        self.diagnostics: list[Diagnostic] = []
        self.spec: Spec | None = None
        self.sources = SourceMap()
        if is_plan:
            self.given = self._read_given(path)
            self.spec = carried_spec(self.given.plan) if self.given is not None else None
        else:
            self.spec, self.sources, found = read_spec(path, overrides)
            self.diagnostics += found
            self.given = self._read_given(plan_file) if plan_file is not None and self.spec is not None else None
        if self.given is not None and self.spec is not None:
            self._tell(faults_of(self.given, self.spec))

    def _read_given(self, plan_file: Path) -> GivenPlan | None:
        try:
            return read_plan(plan_file)
        except SpecError as error:
            self._tell(error.diagnostics)
            return None

    def price(self) -> PlanEntry:
        """The plan without a look at which keys are read: its spec was checked when the plan was made."""
        if self.spec is None:
            return self._entry(Plan(name=self.path.stem, spec_sha256=None))
        return self._plan(self.spec)

    def plan(self) -> PlanEntry:
        if self.spec is None:
            return self._entry(Plan(name=self.path.stem, spec_sha256=None))
        with record_reads() as reads:
            entry = self._plan(self.spec)
            if not self._has_errors:
                self._read_as_lowering_does(self.spec, entry.plan)
        return self._consumed(entry, reads)

    def build(self, out_dir: Path) -> BuildResult:
        if self.spec is None:
            return BuildResult(self.plan(), None, tuple(self.diagnostics), out_dir)
        with record_reads() as reads:
            entry = self._plan(self.spec)
            tree = None if self._has_errors else self._lower(self.spec, entry, out_dir)
        entry = self._consumed(entry, reads)
        return BuildResult(entry, None if self._has_errors else tree, entry.diagnostics, out_dir)

    def _plan(self, spec: Spec) -> PlanEntry:
        """Spec -> Graph -> Plan."""
        from .lower.refuse import refuse_spec

        self._tell(refuse_spec(spec))
        graph = None if self._has_errors else self._graph(spec)
        if graph is None:
            return self._entry(Plan(name=spec.name, spec_sha256=spec_sha256(spec)))
        facts = ModelFacts(parameters=graph.num_parameters(), active_parameters=graph.active_parameters())
        train = serve = None
        kernels = kernels_of(spec)
        wanted = spec if self.given is None else pinned(spec, self.given)
        if spec.train is not None:
            from .planner.train_plan import plan_training

            planned = self.given.plan.train if self.given is not None else None
            train = plan_training(wanted, graph, kernels=kernels, layout=planned.layout if planned else None)
            self._tell(train.diagnostics)
        if spec.serve is not None:
            from .planner.serve_plan import plan_serving

            serve = plan_serving(wanted, run_passes(build_model(spec.model, name=spec.name)), folder=self.path.parent)
            self._tell(serve.diagnostics)
        plan = Plan(
            name=spec.name,
            spec_sha256=spec_sha256(spec),
            model=facts,
            train=train.plan if train else None,
            serve=serve.plan if serve else None,
        )
        if self.given is not None and not self._has_errors:
            self._tell(not_kept(self.given, plan))
        self.dump.write("plan.json", plan.to_text())
        return self._entry(plan, train=train, serve=serve)

    def _graph(self, spec: Spec) -> Graph | None:
        try:
            graph = build_graph(spec)
        except SpecError as error:
            self._tell(error.diagnostics)
            return None
        attention = spec.assume.attention if spec.assume is not None else None
        if spec.train is not None and spec.hardware.accelerator.kind == "tpu" and spec.assume is None:
            attention = "flash2"  # the program's own kernel (templates/kernels/pallas), which knows caps
        return run_passes(graph, kernels=kernels_of(spec), attention=attention, dump=self.dump)

    def _lower(self, spec: Spec, entry: PlanEntry, out_dir: Path) -> Tree | None:
        """Plan -> Program -> files."""
        from .emit.manifest import locator
        from .emit.tree import render_program
        from .lower.lower import lower
        from .lower.views import Place

        try:
            program = lower(spec, entry.plan, place=Place(spec_file=self.path, out_dir=out_dir))
        except SpecError as error:
            self._tell(error.diagnostics)
            return None
        if entry.train is not None and entry.train.chosen.layout.devices > 1:
            from .lower.kernels import lower_kernels
            from .planner.claims import claims_of

            kernels = frozenset(kernel.name for kernel in lower_kernels(spec, entry.plan))
            claims = claims_of(spec, entry.train, kernels=kernels)
            program = replace(program, texts={**program.texts, "claims.json": claims.to_text()})
        return render_program(program, locate=locator(self.sources, spec_dir=self.path.parent))

    def _read_as_lowering_does(self, spec: Spec, plan: Plan) -> None:
        """Make the views that a build would make: what they read counts as consumed."""
        from .lower.refuse import refuse_program

        self.is_lowered = not list(refuse_program(spec, plan))
        if self.is_lowered:
            from .lower.views import Place, lower_views

            lower_views(spec, plan, place=Place(spec_file=self.path, out_dir=self.path.parent))

    is_lowered = True
    given: GivenPlan | None = None

    def _consumed(self, entry: PlanEntry, reads: set[tuple[str | int, ...]]) -> PlanEntry:
        """Consume or reject, over the whole way.

        A spec that is not lowered yet can be planned all the same. What a build would read of it is not known, so only
        the sections that are the planner's alone are held to it.
        """
        if not self._has_errors:
            assert self.spec is not None
            unread = unread_keys(self.spec, self.sources, reads, already=self.diagnostics)
            nothing_asked = self.spec.train is None and self.spec.serve is None
            held = () if nothing_asked else PLANNER_SECTIONS
            self._tell(each for each in unread if self.is_lowered or (each.path or ("",))[0] in held)
        return self._entry(entry.plan, train=entry.train, serve=entry.serve)

    @property
    def _has_errors(self) -> bool:
        return any(each.severity == "error" for each in self.diagnostics)

    def _tell(self, diagnostics: object) -> None:
        given = self.given
        placed = [each if given is None else given.locate(each) for each in diagnostics]  # type: ignore[attr-defined]
        self.diagnostics += [locate(each, self.sources) for each in placed]

    def _entry(self, plan: Plan, *, train: TrainOutcome | None = None, serve: ServeOutcome | None = None) -> PlanEntry:
        told = tuple(DiagnosticFacts.model_validate(each.to_json()) for each in self.diagnostics)
        plan = plan.model_copy(update={"diagnostics": told})
        return PlanEntry(plan, tuple(self.diagnostics), self.spec, self.sources, train, serve)


def kernels_of(spec: Spec) -> frozenset[str]:
    """Names of the kernels that the training program will have, on one device: those of several, and of TPUs, keep what separate ops keep."""
    from .kernels.setting import Setting
    from .kernels.table import choose_kernels
    from .lower.model import longest_sequence

    if spec.train is None or spec.hardware.num_devices > 1 or spec.assume is not None:
        return frozenset()
    if spec.hardware.accelerator.kind == "tpu":
        return frozenset()
    setting = Setting(spec, spec.train[0], grad_accumulation=1, longest=longest_sequence(spec))
    return frozenset(kernel.name for kernel in choose_kernels(setting))


def run_passes(
    graph: Graph, *, kernels: frozenset[str] = frozenset(), attention: str | None = None, dump: _Dump | None = None
) -> Graph:
    """All passes in order, then those of the program's kernels; with `dump`, the graph before and after each as text.

    `attention` is what a spec assumes another program's to be: unfused, or flash kernels also where PyTorch has none.
    """
    if dump is not None:
        dump.write("graph.ir.txt", print_graph(graph))
    passes = PASSES
    if attention is not None:
        instead = (unfuse_attention,) if attention == "unfused" else ()
        passes = (*(each for each in PASSES if each is not choose_attention), *instead)
    for each in (*passes, *(KERNEL_PASSES[name] for name in KERNEL_PASSES if name in kernels)):
        graph = each(graph)
        if dump is not None:
            dump.write(f"{each.__name__}.ir.txt", print_graph(graph))
    return graph


class _Dump:
    """Writes stages to a folder as `01_graph.ir.txt`, `02_fuse_qkv.ir.txt`, …; nothing without a folder."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.count = 0

    def write(self, name: str, text: str) -> None:
        self.count += 1
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{self.count:02d}_{name}").write_text(text, encoding="utf-8", newline="\n")


def _folder(dump_ir: Path | None, path: str | Path, *, several: bool) -> Path | None:
    return dump_ir / Path(path).stem if dump_ir is not None and several else dump_ir
