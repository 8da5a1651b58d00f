"""Spec and plan -> Program: refuse what is not lowered, make the views, let the backend list the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...spec.diagnostics import SpecError
from ..backends.table import backend_for
from ..emit.literals import json_text
from ..emit.paths import relative
from ..emit.program import Program
from ..kernels.described import LISTED, describe, describe_serving
from .kernels import setting_of
from .refuse import refuse_program
from .views import lower_views

if TYPE_CHECKING:
    from ...spec.document import Spec
    from ..planner.plan import Plan
    from .views import Place


def lower(spec: Spec, plan: Plan, *, place: Place) -> Program:
    """The program of a plan. Raises SpecError with everything that is not lowered yet."""
    refused = tuple(refuse_program(spec, plan))
    if refused:
        raise SpecError(refused)
    views = lower_views(spec, plan, place=place)
    files = (*backend_for(spec.hardware.accelerator.kind)(views), *views.deploy.files)
    texts = {"plan.json": _without_paths(plan, place=place).to_text(), **views.deploy.texts}
    setting = setting_of(spec, plan)
    if setting is not None and views.kernels:
        texts[LISTED] = json_text(describe(setting))
    elif views.kernels:
        texts[LISTED] = json_text(describe_serving(views.kernels, spec))
    return Program(name=spec.name, files=files, texts=texts)


def _without_paths(plan: Plan, *, place: Place) -> Plan:
    """Diagnostics name files as the command line did; in a build they are named from the folder of the spec."""
    told = [
        each
        if each.file is None
        else each.model_copy(update={"file": relative(each.file, start=place.spec_file.parent)})
        for each in plan.diagnostics
    ]
    return plan.model_copy(update={"diagnostics": tuple(told)})
