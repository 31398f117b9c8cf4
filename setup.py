"""What a wheel installs: `modeling_fblt`, and one package `fblt` with the rooms of this repository inside it.

Everything else about the package stands in setup.cfg. Sub-packages of the rooms are found, so that a new folder needs
no entry here; its YAML files come with it.
"""

from setuptools import find_packages, setup

ROOMS = ("conversion", "training", "benchmarks")
LEFT_OUT = ("*.examples", "*.examples.*")  # scripts to read and change, for a checkout


def packages() -> list[str]:
    """Every package to install, under the name it is imported by."""
    found = find_packages(include=["modeling_fblt", "fblt", "fblt.*"])
    for room in ROOMS:
        found += [f"fblt.{name}" for name in find_packages(include=[room, f"{room}.*"], exclude=LEFT_OUT)]
    return found


setup(packages=packages(), package_dir={f"fblt.{room}": room for room in ROOMS})
