"""The repository root is the import package `llmc`: each top-level folder is one of its subpackages.

Every folder below is a package of its own, with or without `__init__.py`, so that templates, catalog files and schemas
travel with the code. A new top-level folder needs a line in FOLDERS and a fresh `make setup`; folders below do not.
"""

from setuptools import find_namespace_packages, setup

FOLDERS = ["cli", "compiler", "runtimes", "schema", "spec", "templates"]


def packages_of(folder: str) -> list[str]:
    """`spec` -> ["llmc.spec", "llmc.spec.catalog", ...]."""
    inside = find_namespace_packages(folder, exclude=["*__pycache__*"])
    return [f"llmc.{folder}", *(f"llmc.{folder}.{name}" for name in sorted(inside))]


setup(
    packages=[package for folder in FOLDERS for package in packages_of(folder)],
    package_dir={f"llmc.{folder}": folder for folder in FOLDERS},
)
