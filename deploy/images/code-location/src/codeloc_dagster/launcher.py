"""Starts each run as an ECS task of its own, from the task definition that codeloc registered for the run's location.

Guarantees: a run gets the image, role, environment and log group of its own location and no other. Job and run tags,
and the container context that a code server reports, are in the hands of whoever writes a location's code, so of both
only what cannot widen anything counts.

Assumes: the location's name in the run's remote job origin is the host's, from workspace.yaml. Whoever can write
Dagster's database can write a run of any location; that is not guarded against here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dagster import DagsterError, DagsterInvariantViolationError, DagsterRun, Field, Noneable, StringSource
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, ResumeRunContext
from dagster._serdes import ConfigurableClassData
from dagster_aws.ecs import EcsRunLauncher

# Each reaches RunTask unchecked in EcsRunLauncher.
REFUSED_TAGS: Mapping[str, str] = {
    "ecs/task_overrides": "it could give the task another location's role",
    "ecs/run_task_kwargs": "it could start another location's task definition, on another network",
    "ecs/container_overrides": "it could run another command or change another location's environment",
}
ALLOWED_CONTEXT = ("task_definition_arn", "container_name", "run_resources")
ALLOWED_RESOURCES = ("cpu", "memory", "ephemeral_storage")
# EcsRunLauncher's settings for task definitions that it registers itself, or takes from its own task. This launcher
# does neither: the definition is codeloc's, and whatever a run needs is in it.
WITHOUT_EFFECT = (
    "task_definition",
    "secrets",
    "secrets_tag",
    "env_vars",
    "include_sidecars",
    "use_current_ecs_task_config",
)
CONTAINER_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
# The hash of what the definition says, so a queued run keeps the definition of the moment it was created.
HASH = "[0-9a-f]{16}"


class RunRefused(DagsterError):
    """A run that asks for more than its location may have."""


class CodelocRunLauncher(EcsRunLauncher):
    """The `run_launcher` of dagster.yaml on the platform.

    Takes EcsRunLauncher's settings and `deployment`, the id that codeloc's task definitions begin with. Cluster,
    subnets and security groups are the operator's, in `run_task_kwargs`.
    """

    def __init__(
        self,
        deployment: str,
        inst_data: ConfigurableClassData | None = None,
        run_task_kwargs: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        for name in WITHOUT_EFFECT:
            if settings.pop(name, None):
                raise DagsterInvariantViolationError(
                    f"run_launcher.config.{name} has no effect: task definitions of runs are codeloc's. Take it out"
                )
        wanted = dict(run_task_kwargs or {})
        for name in ("cluster", "networkConfiguration"):
            if not wanted.get(name):
                raise DagsterInvariantViolationError(
                    f"run_launcher.config.run_task_kwargs has no {name}: name where runs start"
                )
        if "capacityProviderStrategy" not in wanted:
            # ECS's own default is EC2.
            wanted.setdefault("launchType", "FARGATE")
        # The location's cost-allocation tags are on its task definition.
        wanted.setdefault("propagateTags", "TASK_DEFINITION")
        self.deployment = deployment
        super().__init__(
            inst_data=inst_data,
            run_task_kwargs=wanted,
            secrets_tag=None,  # type: ignore[arg-type]
            use_current_ecs_task_config=False,
            **settings,
        )

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {
            **super().config_type(),  # type: ignore[no-untyped-call]
            "deployment": Field(StringSource, description="The id of codeloc's deployment."),
            # EcsRunLauncher's defaults would give every run each secret tagged `dagster`, and the daemon's network.
            "secrets_tag": Field(Noneable(StringSource), is_required=False, default_value=None),
            "use_current_ecs_task_config": Field(bool, is_required=False, default_value=False),
        }

    def launch_run(self, context: LaunchRunContext) -> None:
        super().launch_run(context._replace(dagster_run=self.confined(context.dagster_run)))

    def resume_run(self, context: ResumeRunContext) -> None:
        super().resume_run(context._replace(dagster_run=self.confined(context.dagster_run)))

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        # Only the container's name is used. What else a context says cannot matter to a task that runs already.
        name = ecs_context(run).get("container_name")
        named = {"ecs": {"container_name": name}} if is_container_name(name) else {}
        health: CheckRunHealthResult = super().check_run_worker_health(with_context(run, named))
        return health

    def confined(self, run: DagsterRun) -> DagsterRun:
        """The run with the part of its container context that counts.

        Errors: [`RunRefused`], with what to do.
        """
        location = location_of(run)
        for tag, reason in REFUSED_TAGS.items():
            if tag in run.tags:
                raise RunRefused(
                    f"the run has the tag {tag}, which is refused: {reason}. Take it out of the job's or run's tags;"
                    " CPU and memory are set with ecs/cpu and ecs/memory"
                )
        return with_context(run, {"ecs": self._accepted(run, location)})

    def _accepted(self, run: DagsterRun, location: str) -> dict[str, Any]:
        whose = f"the container context of location {location}"
        beside = sorted(set(context_of(run)) - {"ecs"})
        within = ecs_context(run)
        for key in [*beside, *(f"ecs.{key}" for key in sorted(set(within) - set(ALLOWED_CONTEXT)))]:
            raise RunRefused(
                f"{whose} has {key}, which is refused: of a location only"
                f" {', '.join(f'ecs.{allowed}' for allowed in ALLOWED_CONTEXT)} count. Start its code server without it"
            )
        family = within.get("task_definition_arn")
        expected = f"{self.deployment}-{location}_run_"
        if family is None:
            raise RunRefused(
                f"{whose} names no task definition, so nothing says which image and role the run gets. codeloc puts one"
                f" that begins with {expected} into DAGSTER_CONTAINER_CONTEXT of the code server; wait for its rollout,"
                " reload the location and launch the run again"
            )
        # A string and nothing else: Dagster would read {"env": ...} from the daemon's own environment.
        if not isinstance(family, str) or not re.fullmatch(re.escape(expected) + HASH, family):
            raise RunRefused(
                f"{whose} names the task definition {family!r}, which is refused: this location's are {expected} and 16"
                " hexadecimal digits, without a revision. It may not start another location's"
            )
        accepted: dict[str, Any] = {"task_definition_arn": family}
        name = within.get("container_name")
        if name is not None:
            if not is_container_name(name):
                raise RunRefused(f"{whose} has {name!r} for ecs.container_name, which is no name of a container")
            accepted["container_name"] = name
        resources = within.get("run_resources") or {}
        if not isinstance(resources, Mapping) or not all(is_resource(*item) for item in resources.items()):
            raise RunRefused(
                f"{whose} has {resources!r} for ecs.run_resources, which should be numbers under"
                f" {', '.join(ALLOWED_RESOURCES)}"
            )
        accepted["run_resources"] = dict(resources)
        return accepted


def location_of(run: DagsterRun) -> str:
    """The location that the host created the run for. Tags say it too, and are not asked: users write them."""
    if run.remote_job_origin is None:
        raise RunRefused(
            "the run has no remote job origin, so it belongs to no location: launch it in Dagster's UI or by a schedule"
        )
    return run.remote_job_origin.location_name


def context_of(run: DagsterRun) -> Mapping[str, Any]:
    """The container context that the code server reported when the run was created."""
    origin = run.job_code_origin
    return (origin.repository_origin.container_context if origin else None) or {}


def ecs_context(run: DagsterRun) -> Mapping[str, Any]:
    """Its part for ECS."""
    within = context_of(run).get("ecs")
    return within if isinstance(within, Mapping) else {}


def with_context(run: DagsterRun, context: Mapping[str, Any]) -> DagsterRun:
    """The run with another container context."""
    origin = run.job_code_origin
    if origin is None:
        return run
    repository = origin.repository_origin._replace(container_context=context)
    return run._replace(job_code_origin=origin._replace(repository_origin=repository))


def is_container_name(name: object) -> bool:
    """Whether it is a name, and no reference to a variable of the daemon."""
    return isinstance(name, str) and CONTAINER_NAME.fullmatch(name) is not None


def is_resource(name: str, value: object) -> bool:
    """Whether it is a size as EcsRunLauncher takes it: a number for storage, the digits of one for the others."""
    if name == "ephemeral_storage":
        return type(value) is int and value > 0
    return name in ALLOWED_RESOURCES and isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) is not None
