"""Checks a compose file where there is no engine to do it: that it can be read, and that what it names is there."""

import pathlib
import sys

import yaml

path = pathlib.Path(sys.argv[1])
compose = yaml.safe_load(path.read_text())
volumes = set(compose["volumes"])
for name, service in compose["services"].items():
    assert ("image" in service) != ("build" in service), f"{name}: one of image and build"
    if "build" in service:
        context = path.parent / service["build"]["context"]
        assert (context / service["build"]["dockerfile"]).is_file(), f"{name}: no Dockerfile"
    for other in service.get("depends_on", []):
        assert other in compose["services"], f"{name} depends on {other}, which is no service"
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        is_there = (path.parent / source).exists() if source.startswith(".") else source in volumes
        assert is_there, f"{name}: there is no {source}"
print(f"{path} holds together: {', '.join(compose['services'])}")
