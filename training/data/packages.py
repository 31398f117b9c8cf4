"""Debian packages as data sources: find or download the .deb files, unpack them, read versions. No root needed."""

import hashlib
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path


class PackageError(ValueError):
    """A package cannot be had or unpacked; the message names the remedy."""


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    sha256: str
    path: Path

    def to_manifest(self) -> dict[str, str]:
        return {key: value for key, value in asdict(self).items() if key != "path"}


def check_tools(download: bool) -> None:
    """Raises unless the commands that the work needs are there."""
    if shutil.which("dpkg-deb") is None:
        raise PackageError("`dpkg-deb` was not found. Install package `dpkg`, or build the data on Debian or Ubuntu.")
    if download and shutil.which("apt-get") is None:
        raise PackageError(
            "`apt-get` was not found, so packages cannot be downloaded. Fetch the .deb files elsewhere (Debian 12) and "
            "pass their folder with `--packages DIR`."
        )


def find_deb(name: str, folder: Path) -> Path | None:
    """Returns the one .deb of package `name` in `folder`, or None."""
    found = sorted(folder.glob(f"{name}_*.deb"))
    if len(found) > 1:
        raise PackageError(
            f"{folder} holds {len(found)} files of package {name!r}; keep one: {[p.name for p in found]}"
        )
    return found[0] if found else None


def missing_packages(names: list[str], folder: Path) -> list[str]:
    """Returns the names of which `folder` has no .deb."""
    return [name for name in names if find_deb(name, folder) is None]


def download(name: str, folder: Path) -> None:
    """Downloads the .deb of one package into `folder` with `apt-get download`."""
    folder.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(["apt-get", "download", name], cwd=folder, capture_output=True, text=True)
    if result.returncode or find_deb(name, folder) is None:
        raise PackageError(
            f"`apt-get download {name}` failed: {result.stderr.strip()[-500:]}\n"
            "Run `apt-get update` first; on a release other than Debian 12 (whose Python is 3.11) pass the Debian 12 "
            "files with `--packages DIR`."
        )


def read_package(name: str, folder: Path) -> Package:
    """Returns what the manifest says about a package in `folder`."""
    path = find_deb(name, folder)
    if path is None:
        raise PackageError(f"package {name!r} is not in {folder}")
    version = subprocess.run(["dpkg-deb", "-f", path, "Version"], capture_output=True, text=True)
    if version.returncode:
        raise PackageError(f"{path} is not a readable .deb ({version.stderr.strip()}); delete it and run again")
    return Package(name, version.stdout.strip(), hashlib.sha256(path.read_bytes()).hexdigest(), path)


def unpack(package: Package, folder: Path) -> None:
    """Unpacks a package's files below `folder`."""
    result = subprocess.run(["dpkg-deb", "-x", package.path, folder], capture_output=True, text=True)
    if result.returncode:
        raise PackageError(f"unpacking {package.path} failed: {result.stderr.strip()}; delete the file and run again")
