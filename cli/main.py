"""The `llmc` command. Every command is thin: it imports what it needs when it runs, so that `llmc --help` answers at once.

Exit codes: 0 fine, 1 the spec has errors, 2 wrong usage, 3 no layout fits, 4 verification failed, 70 a fault of llmc.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

app = typer.Typer(
    name="llmc",
    help="Compile one YAML spec of an LLM system into a plan that can be trusted and a program that can be read.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich's help costs 0.2 s
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
runs = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Build if need be, then train, serve or generate here."
)
app.add_typer(runs, name="run")

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="A spec, such as spec.yaml.")]
SpecFiles = Annotated[list[Path], typer.Argument(metavar="SPEC...", help="One spec or several.")]
SpecOrFolder = Annotated[Path, typer.Argument(metavar="SPEC|DIR", help="A spec, or a folder that was built from one.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="Override a value, e.g. train.optimizer.lr=1e-4. May be repeated."),
]
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Options that the generated program understands are handed on to it."""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write.")] = Path(),
    template: Annotated[str, typer.Option(help="Which example to start from; `list` names them.")] = "tiny-code",
    force: Annotated[bool, typer.Option("--force", help="Overwrite a spec.yaml that exists.")] = False,
) -> None:
    """Write a spec to start from, set up for your editor."""
    from .starting import init_folder

    _exit(init_folder(folder, template=template, force=force))


@app.command()
def plan(
    specs: SpecFiles,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print a list with one entry a spec.")] = False,
    top: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Explain N runners-up term by term, and what was ruled out.")
    ] = None,
    why_not: Annotated[
        list[str] | None,
        typer.Option(metavar="K=V", help="What decides against it, e.g. tp=16 or pp=4,ep=8. May be repeated."),
    ] = None,
    shadow_prices: Annotated[
        bool, typer.Option("--shadow-prices", help="What more memory, bandwidth or compute would be worth.")
    ] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one self-contained page.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the plan, to be edited and built with --plan.")
    ] = None,
    dump_ir: Annotated[Path | None, typer.Option(help="Write one file a stage and pass here.")] = None,
) -> None:
    """Does it fit, how fast is it, what fills memory and time, and why."""
    from ..compiler.planner.asked import Asked
    from .compiling import plan_files

    asked = Asked(top=top, prices=shadow_prices, why_not=tuple(why_not or ()))
    _exit(plan_files(specs, overrides or [], asked=asked, as_json=json, html=html, out=out, dump_ir=dump_ir))


@app.command()
def build(
    spec: SpecFile,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where to write; build/NAME if not given.")] = None,
    overrides: Overrides = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="Build this layout, from `llmc plan --out FILE`, edited or not."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that were edited by hand.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if the folder differs.")] = False,
    dump_ir: Annotated[Path | None, typer.Option(help="Write one file a stage and pass here.")] = None,
) -> None:
    """Write the program: model.py, train.py, serve.py, …"""
    from .compiling import build_file

    _exit(build_file(spec, out, overrides or [], plan=plan, check=check, force=force, dump_ir=dump_ir))


@runs.command("train", context_settings=PASS_ON)
def run_train(
    context: typer.Context,
    target: SpecOrFolder,
    overrides: Overrides = None,
    launcher: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Start it by torchrun, slurm, ray or kubernetes, as `deploy` says."),
    ] = None,
) -> None:
    """Train. Options such as --resume are handed on to the program."""
    from .running import run_program

    _exit(run_program("train", target, overrides or [], context.args, launcher=launcher))


@runs.command("serve", context_settings=PASS_ON)
def run_serve(context: typer.Context, target: SpecOrFolder, overrides: Overrides = None) -> None:
    """Serve an OpenAI-compatible API. Options: --weights DIR or --random, --host, --port; --simulate ACCELERATOR without a model."""
    from .running import run_program

    _exit(run_program("serve", target, overrides or [], context.args))


@runs.command("generate", context_settings=PASS_ON)
def run_generate(context: typer.Context, target: SpecOrFolder, overrides: Overrides = None) -> None:
    """Complete a prompt. Options: --prompt TEXT, --max-tokens N, --weights DIR."""
    from .running import run_program

    _exit(run_program("generate", target, overrides or [], context.args))


@runs.command("eval", context_settings=PASS_ON, hidden=True)
def run_eval(context: typer.Context) -> None:
    """Not there yet."""
    _exit(_missing("run eval", "evaluating a trained model"))


@runs.command("bench", context_settings=PASS_ON)
def run_bench(context: typer.Context, spec: SpecFile, overrides: Overrides = None) -> None:
    """Send the spec's workload to a running server. Options: --url, --rate or --concurrency, --requests, --json, --plot."""
    from .benching import run_bench as bench

    _exit(bench(spec, overrides or [], context.args))


@app.command("import")
def import_model(
    source: Annotated[Path, typer.Argument(metavar="HF_DIR|GGUF", help="A Hugging Face folder, or a .gguf file.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where to write the spec and the weights.")] = None,
) -> None:
    """Turn a published checkpoint into a spec and weights."""
    from .importing import import_checkpoint

    _exit(import_checkpoint(source, out))


@app.command()
def schema(
    write: Annotated[bool, typer.Option("--write", help="Rewrite schema/*.json in this checkout.")] = False,
) -> None:
    """Print the JSON Schema of the language."""
    from .starting import print_schema, write_schemas

    _exit(write_schemas() if write else print_schema())


@app.command()
def explain(
    code: Annotated[
        str | None, typer.Argument(metavar="[CODE]", help="S104, or unknown-field; all if left out.")
    ] = None,
) -> None:
    """Explain a diagnostic, with a spec that yields it."""
    from .explaining import explain_code, list_codes

    _exit(list_codes() if code is None else explain_code(code))


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A spec, or a plan that `llmc plan --out` wrote.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The other one.")],
    json: Annotated[bool, typer.Option("--json", help="Print the differences and predictions as JSON.")] = False,
) -> None:
    """What changes the trained model, what only how it runs, and what each takes."""
    from .comparing import compare_files

    _exit(compare_files(a, b, as_json=json))


@app.command()
def backtest(
    measurements: Annotated[Path, typer.Argument(metavar="CSV", help="Published measurements, one a line.")],
    json: Annotated[bool, typer.Option("--json", help="Print scores and every prediction as JSON.")] = False,
    brief: Annotated[bool, typer.Option("--brief", help="Leave out the table by source.")] = False,
) -> None:
    """Score the cost model on published measurements, each layout as it was published."""
    from .backtesting import score_file

    _exit(score_file(measurements, want_json=json, brief=brief))


@app.command()
def doctor(
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Measure this machine's processor; a spec that extends FILE is planned for it."
        ),
    ] = None,
) -> None:
    """Show versions, this machine, and what works here."""
    if calibrate is not None:
        from .calibrating import write_calibration

        _exit(write_calibration(calibrate))
        return
    from .checking import examine

    _exit(examine())


@app.command()
def verify(
    target: SpecOrFolder,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print each claim with both figures as JSON.")] = False,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Only generated kernels: against float64, and compiled for the chip.")
    ] = False,
) -> None:
    """Prove that a program does what its plan says, without the hardware. Exit code 4 if a claim does not hold."""
    from .verifying import verify_kernels_of, verify_target

    _exit((verify_kernels_of if kernels else verify_target)(target, overrides or [], as_json=json))


def _missing(command: str, capability: str) -> int:
    print(f"llmc {command}: {capability} is not part of this version", file=sys.stderr)
    return 2


def _exit(status: int) -> None:
    if status:
        raise typer.Exit(status)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. A fault of ours becomes 70 and a request to report it."""
    from .faults import shown_as_exit_status

    with shown_as_exit_status() as outcome:
        _command()(args=list(args) if args is not None else None, prog_name="llmc")
    return outcome.status


@functools.cache
def _command() -> Callable[..., object]:
    """Made once a process: typer reads the signatures of all commands for it."""
    return typer.main.get_command(app)


def start() -> NoReturn:
    """The console script. Most commands are short: looking for cycles of garbage would take a seventh of a plan's time."""
    gc.set_threshold(200_000, 20, 20)
    status = main()
    gc.freeze()  # what is left goes with the process
    sys.exit(status)


if __name__ == "__main__":
    start()
