"""Starts each run as a separate ECS task, from the task definition that codeloc registers for the location of the run.

A run always gets the image, role, environment and log group of its own location. The authors of a location control its
job and run tags and the container context that its code server reports, so the launcher accepts only fields of these
that cannot extend the permissions of a run.

The launcher trusts the location name in the remote job origin, which Dagster reads from workspace.yaml. A user who can
write to the Dagster database can create a run of any location.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dagster import DagsterError, DagsterInvariantViolationError, DagsterRun, Field, Noneable, StringSource
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, ResumeRunContext
from dagster._serdes import ConfigurableClassData
from dagster_aws.ecs import EcsRunLauncher

# EcsRunLauncher passes each of these to RunTask without checks.
REFUSED_TAGS: Mapping[str, str] = {
    "ecs/task_overrides": "it could give the task the role of another location",
    "ecs/run_task_kwargs": "it could start the task definition of another location or use another network",
    "ecs/container_overrides": "it could change the command or the environment of the task",
}
ALLOWED_CONTEXT = ("task_definition_arn", "container_name", "run_resources")
ALLOWED_RESOURCES = ("cpu", "memory", "ephemeral_storage")
# Settings of EcsRunLauncher for task definitions that it registers itself or copies from its own task. This launcher
# does neither, because codeloc registers the task definitions.
UNSUPPORTED_SETTINGS = (
    "task_definition",
    "secrets",
    "secrets_tag",
    "env_vars",
    "include_sidecars",
    "use_current_ecs_task_config",
)
CONTAINER_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
# Hash of the definition. A queued run keeps the definition from the time of its creation.
HASH = "[0-9a-f]{16}"


class RunRefused(DagsterError):
    """The run requests something that its location is not allowed to use."""


class CodelocRunLauncher(EcsRunLauncher):
    """The `run_launcher` for dagster.yaml.

    Accepts the settings of EcsRunLauncher and `deployment`, the id at the start of the task definition names. The
    operator sets cluster, subnets and security groups in `run_task_kwargs`.
    """

    def __init__(
        self,
        deployment: str,
        inst_data: ConfigurableClassData | None = None,
        run_task_kwargs: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        for name in UNSUPPORTED_SETTINGS:
            if settings.pop(name, None):
                raise DagsterInvariantViolationError(
                    f"run_launcher.config.{name} has no effect, because codeloc registers the task definitions of runs."
                    " Remove it"
                )
        kwargs = dict(run_task_kwargs or {})
        for name in ("cluster", "networkConfiguration"):
            if not kwargs.get(name):
                raise DagsterInvariantViolationError(
                    f"run_launcher.config.run_task_kwargs has no {name}. Set the {name} that runs use"
                )
        if "capacityProviderStrategy" not in kwargs:
            # ECS defaults to EC2.
            kwargs.setdefault("launchType", "FARGATE")
        # The task definition has the cost allocation tags of the location.
        kwargs.setdefault("propagateTags", "TASK_DEFINITION")
        self.deployment = deployment
        super().__init__(
            inst_data=inst_data,
            run_task_kwargs=kwargs,
            secrets_tag=None,  # type: ignore[arg-type]
            use_current_ecs_task_config=False,
            **settings,
        )

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {
            **super().config_type(),  # type: ignore[no-untyped-call]
            "deployment": Field(StringSource, description="The codeloc setting `deployment`."),
            # The defaults of EcsRunLauncher give every run the secrets tagged `dagster` and the network of the daemon.
            "secrets_tag": Field(Noneable(StringSource), is_required=False, default_value=None),
            "use_current_ecs_task_config": Field(bool, is_required=False, default_value=False),
        }

    def launch_run(self, context: LaunchRunContext) -> None:
        super().launch_run(context._replace(dagster_run=self.confined(context.dagster_run)))

    def resume_run(self, context: ResumeRunContext) -> None:
        super().resume_run(context._replace(dagster_run=self.confined(context.dagster_run)))

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        # The health check uses only the container name, so an invalid context must not fail it.
        name = ecs_context(run).get("container_name")
        named = {"ecs": {"container_name": name}} if is_container_name(name) else {}
        health: CheckRunHealthResult = super().check_run_worker_health(with_context(run, named))
        return health

    def confined(self, run: DagsterRun) -> DagsterRun:
        """The run with only the accepted part of its container context. Raises RunRefused for any other part."""
        location = location_of(run)
        for tag, reason in REFUSED_TAGS.items():
            if tag in run.tags:
                raise RunRefused(
                    f"the run has the tag {tag}, which is not allowed: {reason}. Remove the tag from the job or run. To"
                    " set CPU and memory, use ecs/cpu and ecs/memory"
                )
        return with_context(run, {"ecs": self._accepted(run, location)})

    def _accepted(self, run: DagsterRun, location: str) -> dict[str, Any]:
        source = f"the container context of location {location}"
        others = sorted(set(context_of(run)) - {"ecs"})
        ecs = ecs_context(run)
        for key in [*others, *(f"ecs.{key}" for key in sorted(set(ecs) - set(ALLOWED_CONTEXT)))]:
            raise RunRefused(
                f"{source} contains {key}, which is not allowed. A location can set only"
                f" {', '.join(f'ecs.{allowed}' for allowed in ALLOWED_CONTEXT)}. Remove {key} from the code server"
            )
        family = ecs.get("task_definition_arn")
        expected = f"{self.deployment}-{location}_run_"
        if family is None:
            raise RunRefused(
                f"{source} contains no task definition, so the run has no image and role. codeloc sets one that starts"
                f" with {expected} in DAGSTER_CONTAINER_CONTEXT of the code server. Wait for the rollout, reload the"
                " location and launch the run again"
            )
        # Dagster would resolve {"env": ...} from the environment of the daemon, so accept only strings.
        if not isinstance(family, str) or not re.fullmatch(re.escape(expected) + HASH, family):
            raise RunRefused(
                f"{source} contains the task definition {family!r}, which is not allowed. A run of this location can"
                f" use only {expected} followed by 16 hexadecimal digits, without a revision"
            )
        accepted: dict[str, Any] = {"task_definition_arn": family}
        name = ecs.get("container_name")
        if name is not None:
            if not is_container_name(name):
                raise RunRefused(f"{source} contains {name!r} as ecs.container_name. Use a valid container name")
            accepted["container_name"] = name
        resources = ecs.get("run_resources") or {}
        if not isinstance(resources, Mapping) or not all(is_resource(*item) for item in resources.items()):
            raise RunRefused(
                f"{source} contains {resources!r} as ecs.run_resources. Use numbers for"
                f" {', '.join(ALLOWED_RESOURCES)}"
            )
        accepted["run_resources"] = dict(resources)
        return accepted


def location_of(run: DagsterRun) -> str:
    """The location of the run, according to the host. Tags name it too, but users control them."""
    if run.remote_job_origin is None:
        raise RunRefused(
            "the run has no remote job origin, so its location is unknown. Launch it from the Dagster UI or a schedule"
        )
    return run.remote_job_origin.location_name


def context_of(run: DagsterRun) -> Mapping[str, Any]:
    """The container context that the code server reported when the run was created."""
    origin = run.job_code_origin
    return (origin.repository_origin.container_context if origin else None) or {}


def ecs_context(run: DagsterRun) -> Mapping[str, Any]:
    """The ECS part of the container context."""
    ecs = context_of(run).get("ecs")
    return ecs if isinstance(ecs, Mapping) else {}


def with_context(run: DagsterRun, context: Mapping[str, Any]) -> DagsterRun:
    """The run with `context` as its container context."""
    origin = run.job_code_origin
    if origin is None:
        return run
    repository = origin.repository_origin._replace(container_context=context)
    return run._replace(job_code_origin=origin._replace(repository_origin=repository))


def is_container_name(name: object) -> bool:
    """Whether it is a name and not a reference to a variable of the daemon."""
    return isinstance(name, str) and CONTAINER_NAME.fullmatch(name) is not None


def is_resource(name: str, value: object) -> bool:
    """Whether it is a size in the format of EcsRunLauncher: a number for storage, a string of digits for the others."""
    if name == "ephemeral_storage":
        return type(value) is int and value > 0
    return name in ALLOWED_RESOURCES and isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) is not None
