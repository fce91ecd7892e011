"""The user's modules, imported by the names on the command line and by nothing else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

import common
from common.errors import InvalidTask, NotOurPackage, SettingsError
from common.tasks import Registry, registry
from worker_service.handlers import Handler


def load(modules: Sequence[str], functions: Registry = registry) -> dict[str, Handler]:
    """Import `modules` and compile every task function that they registered.

    Args:
        modules: import names, found as Python finds them with the working directory first.
        functions: where `common.task` registers.

    Returns:
        The handlers by name.

    Raises:
        SettingsError: a module cannot be found or fails to import, there is no task function, or one has arguments
            that JSON cannot carry; the text holds every fault.
        NotOurPackage: the imported `common` is not Warren's.
    """
    if not hasattr(common, "WARREN"):
        raise NotOurPackage(f"the package `common` at {common.__file__} is not Warren's")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    faults = [fault for module in modules if (fault := _import(module))]
    handlers: dict[str, Handler] = {}
    for task in functions.values():
        try:
            handlers[task.name] = Handler(task)
        except InvalidTask as error:
            faults.append(str(error))
    if not faults and not handlers:
        faults.append(f"no task functions in {', '.join(modules)}: put @task (from common import task) on them")
    if faults:
        raise SettingsError(faults)
    return handlers


def _import(module: str) -> str:
    """Import one module. Returns what is wrong, in one sentence, or an empty string."""
    if module.endswith(".py") or "/" in module:
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        return f"{module!r} is a file; give the module's import name, such as {dotted!r}"
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if module == missing or module.startswith(f"{missing}."):
            return f"there is no module {missing!r} (looked in {Path.cwd()} and the installed packages)"
        return f"the module {module!r} imports {missing!r}, which cannot be found{_hint(missing)}"
    except InvalidTask as error:
        return f"the module {module!r} cannot be imported: {error}"
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary: the user's own code
        return f"the module {module!r} cannot be imported: {type(error).__name__}: {error}"
    return ""


def _hint(missing: str) -> str:
    """Says so when another package called `common` is the likely reason."""
    if missing.partition(".")[0] != "common":
        return ""
    spec = PathFinder.find_spec("common", [str(Path.cwd())])
    if spec is None or spec.origin == common.__file__:
        return ""
    return f"; there is another package `common` in {Path.cwd()}, but that name is Warren's here: rename it"
