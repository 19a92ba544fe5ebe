"""Lists the definitions of a location: python -c THIS (module|file) TARGET WORKING_DIRECTORY. Prints one JSON object."""
import json
import sys

from dagster._core.definitions.reconstruct import repository_def_from_target_def
from dagster._core.workspace import autodiscovery

kind, target, folder = sys.argv[1:4]
sys.path.append(folder)
if kind == "module":
    targets = autodiscovery.loadable_targets_from_python_module(target, folder)
else:
    targets = autodiscovery.loadable_targets_from_python_file(target, folder)
found = {"jobs": set(), "assets": set(), "schedules": set(), "sensors": set()}
for one in targets:
    repository = repository_def_from_target_def(one.target_definition)
    found["jobs"].update(name for name in repository.job_names if not name.startswith("__"))
    found["schedules"].update(schedule.name for schedule in repository.schedule_defs)
    found["sensors"].update(sensor.name for sensor in repository.sensor_defs)
    graph = repository.asset_graph
    keys = graph.get_all_asset_keys() if hasattr(graph, "get_all_asset_keys") else graph.all_asset_keys
    found["assets"].update(key.to_user_string() for key in keys)
print(json.dumps({kind: sorted(names) for kind, names in found.items()}))
