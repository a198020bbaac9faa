"""The rooms of the package: imports go one way, and no room is too large."""

import ast
import collections
import functools
import graphlib
import importlib
import pathlib

import pytest

import guides

_PACKAGE = guides.ROOT / "sgdat_jax"
# A room imports from itself and from those behind it alone, the package's version
# aside. `training` takes objects; `experiments` turns names into them. `report` labels
# runs by the names in their configs, so it stands above `experiments`.
_ROOMS = (
    "__main__",
    "cli",
    "report",
    "experiments",
    "training",
    "testing",
    "inference",
    "models",
    "data",
    "optimizers",
    "run_folder",
    "summary",
    "layers",
    "signs",
    "options",
    "names",
    "lookups",
    "files",
    "bits",
    "bit_sums",
    "macs",
    "dtypes",
    "checks",
    "loggers",
    "host_memory",
    "cpu",
)
_MOST_LINES = 400
_MOST_FILES = 12  # besides __init__.py and, in the package itself, __main__.py


@functools.cache
def _modules() -> dict[str, pathlib.Path]:
    found = {}
    for file in _PACKAGE.rglob("*.py"):
        parts = file.relative_to(guides.ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = file
    return found


def _imported(module: str) -> set[str]:
    """Returns the modules of the package that one imports, within functions too."""
    names = set()
    for node in ast.walk(ast.parse(_modules()[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name for name in names if name.split(".")[0] == "sgdat_jax"}
    return {_module_of(name) for name in ours} - {module}


def _module_of(name: str) -> str:
    return name if name in _modules() else _module_of(name.rpartition(".")[0])


def _room(module: str) -> str:
    return module.split(".")[1]


def test_every_room_is_listed():
    assert {_room(name) for name in _modules() if "." in name} == set(_ROOMS)


@pytest.mark.parametrize("room", _ROOMS)
def test_arrows_go_one_way(room):
    below = {room, *_ROOMS[_ROOMS.index(room) :]}
    wrong = [
        f"{module} imports {name}"
        for module in _modules()
        if "." in module and _room(module) == room
        for name in _imported(module)
        if "." in name and _room(name) not in below
    ]
    assert wrong == []


def test_no_module_imports_itself_by_others():
    arrows = {
        module: {name for name in _imported(module) if "." in name}
        for module in _modules()
        if _modules()[module].name != "__init__.py"
    }
    assert len(list(graphlib.TopologicalSorter(arrows).static_order())) > 100


def test_rooms_are_not_crowded():
    sizes = collections.Counter(
        file.parent
        for file in _modules().values()
        if file.name not in ("__init__.py", "__main__.py")
    )
    assert {room: n for room, n in sizes.items() if n > _MOST_FILES} == {}


def test_files_are_not_long():
    lines = {
        module: len(file.read_text().splitlines())
        for module, file in _modules().items()
    }
    assert {name: n for name, n in lines.items() if n > _MOST_LINES} == {}


@pytest.mark.parametrize(
    ("package", "names"),
    [
        ("sgdat_jax.data", "hugging_face photos prepared tiny_imagenet"),
        ("sgdat_jax.optimizers", "freezing invariant partition paths"),
        ("sgdat_jax.training", "agreement diagnostics formats hosts parallel records"),
        ("sgdat_jax.training", "FitConfig Fitted Settings Watcher fit run_folder"),
    ],
)
def test_former_names_are_found(package, names):
    module = importlib.import_module(package)
    assert all(getattr(module, name) for name in names.split())
    with pytest.raises(AttributeError, match=f"{package}' has no attribute 'other'"):
        _ = module.other
