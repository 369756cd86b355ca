"""The workflows and steps of one application, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.authoring.chunks import CHUNKS
from perdure.authoring.hooks import Hook
from perdure.authoring.step import Step
from perdure.authoring.triggers import Triggers
from perdure.authoring.workflow import Workflow
from perdure.model.decision import CatalogEntry
from perdure.model.errors import DefinitionError


class Registry:
    """What an application has registered, and the definitions that it has read from its store.

    Attributes:
        workflows: by name; of a definition, the newest version.
        steps: by name.
        built_in: workflows that every application has, by name; they are worked, but not announced.
        announced: what workers have announced, by name, as far as it was looked up for definitions.
        triggers: what starts workflows, and who hears what becomes of them.
        hooks: the webhooks that come in, by path.
    """

    def __init__(self) -> None:
        self.workflows: dict[str, Workflow[..., Any]] = {}
        self.steps: dict[str, Step[..., Any]] = {}
        self.built_in: dict[str, Workflow[..., Any]] = {CHUNKS.name: CHUNKS}
        self.triggers = Triggers()
        self.hooks: dict[str, list[Hook]] = {}
        self.announced: Mapping[str, CatalogEntry] = {}
        self._definitions: dict[tuple[str, str], Workflow[..., Any]] = {}
        self._newest: dict[str, int] = {}

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

    def add_definition(self, workflow: Workflow[..., Any], created_at: int) -> bool:
        """Take in one version of a definition.

        Args:
            workflow: what works it.
            created_at: when it was published, in milliseconds since the epoch; the latest is the newest.

        Returns:
            Whether it was taken: not if a workflow of that name is written in code here, which then counts.
        """
        name = workflow.name
        if name not in self._newest and name in self.workflows:
            return False
        self.add_version(workflow)
        if created_at >= self._newest.get(name, 0):
            self._newest[name] = created_at
            self.workflows[name] = workflow
        return True

    def add_version(self, workflow: Workflow[..., Any]) -> None:
        """Take in a version of a definition that is known here, without making it the newest."""
        self._definitions[workflow.name, workflow.version] = workflow

    def has_defined(self, name: str) -> bool:
        """Return whether a name is that of a definition."""
        return name in self._newest

    def program(self, name: str, version: str) -> Workflow[..., Any] | None:
        """Return what works a run of that name and version; None for a version of a definition that is not here.

        Whatever its version, a run of a workflow that is written in code is worked by today's code.
        """
        if name in self._newest:
            return self._definitions.get((name, version))
        return self.workflows.get(name) or self.built_in.get(name)

    def find(self, name: str) -> Workflow[..., Any] | CatalogEntry | None:
        """Return what is known of a workflow that is called by its name: its version and its queue."""
        return self.workflows.get(name) or self.announced.get(name)

    def versions(self) -> dict[str, tuple[str, ...]]:
        """Return the versions that are worked here of each workflow, by name; of a definition, the newest last."""
        older: dict[str, list[str]] = {}
        for name, version in self._definitions:
            older.setdefault(name, []).append(version)
        return {
            name: (*(version for version in older.get(name, ()) if version != workflow.version), workflow.version)
            for name, workflow in self.workflows.items()
        }

    def names(self) -> tuple[str, ...]:
        """Return the names of all workflows whose runs can be worked here."""
        return (*self.workflows, *self.built_in)
