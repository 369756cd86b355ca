"""The workflows and steps of one application, by name."""

from __future__ import annotations

from typing import Any

from perdure.authoring.step import Step
from perdure.authoring.workflow import Workflow
from perdure.model.errors import DefinitionError


class Registry:
    """What an application has registered. `workflows` and `steps` are by name."""

    def __init__(self) -> None:
        self.workflows: dict[str, Workflow[..., Any]] = {}
        self.steps: dict[str, Step[..., Any]] = {}

    def add_workflow(self, workflow: Workflow[..., Any]) -> None:
        """Register a workflow.

        Raises:
            DefinitionError: the name is taken.
        """
        if workflow.name in self.workflows:
            raise DefinitionError(f"a workflow {workflow.name!r} is registered already; give one of them name='...'")
        self.workflows[workflow.name] = workflow

    def add_step(self, step: Step[..., Any]) -> None:
        """Register a step.

        Raises:
            DefinitionError: the name is taken.
        """
        if step.name in self.steps:
            raise DefinitionError(f"a step {step.name!r} is registered already; give one of them name='...'")
        self.steps[step.name] = step
