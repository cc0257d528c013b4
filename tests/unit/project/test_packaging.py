"""The project's own files agree with one another: pins, ranges, package data, imports, line ends."""

import ast
import fnmatch
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("int_model", "ml_backend")


def _pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return {line.partition("==")[0]: line.partition("==")[2].split()[0] for line in lines if "==" in line}


def _files(*suffixes: str) -> list[Path]:
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    return [path for path in found if "__pycache__" not in path.parts and (not suffixes or path.suffix in suffixes)]


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_every_dependency_is_pinned_inside_its_range() -> None:
    core = _pins("requirements.txt") | _pins("requirements-torch.txt")
    both = core | _pins("requirements-dev.txt")
    groups = [(PROJECT["project"]["dependencies"], core), (PROJECT["project"]["optional-dependencies"]["dev"], both)]
    for wanted, pins in groups:
        for requirement in map(Requirement, wanted):
            version = pins[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


def test_every_package_but_torch_has_hashes_and_no_file_takes_another_along() -> None:
    assert set(_pins("requirements-torch.txt")) == {"torch"}
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-release.txt"):
        text = (ROOT / name).read_text()
        assert "torch==" not in text
        assert not re.search(r"^-r |index-url", text, re.MULTILINE)
        for entry in re.split(r"\n(?=[a-z])", text)[1:]:
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


def test_torchvision_stays_out_of_the_core() -> None:
    """A torchvision that does not fit its torch breaks the import of every model class."""
    assert not {"torchvision", "torchaudio"} & set(_pins("requirements.txt"))


def test_everything_imported_is_declared() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    texts = [*PROJECT["project"]["dependencies"], *extras["qwen"], *extras["quantize"], *extras["medical"]]
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    homes = packages_distributions()
    for path in _files(".py"):
        for name in _imports(path) - set(sys.stdlib_module_names) - set(PACKAGES):
            distributions = {canonicalize_name(home) for home in homes.get(name, [name])}
            assert distributions & declared, f"{path.relative_to(ROOT)} imports {name}, which pyproject.toml lacks"


def test_the_method_knows_no_service_and_the_service_no_torch() -> None:
    for path in _files(".py"):
        forbidden = {"ml_backend", "fastapi"} if path.is_relative_to(ROOT / "int_model") else {"torch", "transformers"}
        assert not _imports(path) & forbidden, path.relative_to(ROOT)


def test_every_data_file_is_packaged() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    left_out = {
        str(path.relative_to(ROOT))
        for path in _files()
        if path.suffix != ".py" and not any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)
    }
    assert not left_out


def test_the_console_script_exists() -> None:
    module, _, attribute = PROJECT["project"]["scripts"]["int-backend"].partition(":")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    names = {
        t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)
    }
    assert attribute in names


def test_the_licence_is_named_and_there() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("name", [".ci/run", "scripts/make_venv.sh", "scripts/ensure_test_tools.sh"])
def test_shell_scripts_run_anywhere(name: str) -> None:
    path = ROOT / name
    assert path.stat().st_mode & 0o111
    assert b"\r" not in path.read_bytes()
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


def test_links_in_the_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith(("http://", "https://", "mailto:")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
