"""The house rules: imports run downhill, nothing grows too large, the command line starts fast, every recipe binds."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from tenshot.cli import verbs
from tenshot.core.options import Options, entries, resolve
from tenshot.core.recipes import read_recipe
from tenshot.train.options import LoopOptions

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src"
FLOORS = (
    {"core"},
    {"io", "diffusion", "prompt"},
    {"families"},
    {"model", "request", "batch", "pipeline", "adapters", "export", "evaluate", "runtime"}
    | {"option_types", "next_commands", "generation_parameters", "preset"},
    {"generate", "convert", "extract", "inspect", "merge", "train", "autotune"},
    {"demo", "report", "plan", "compare", "bench", "serve", "cli", "__main__"},
)
STRANGERS = (1, 4)  # floors whose rooms do not know each other
ONE_DOOR = {
    "hashlib": {"tenshot.io.hashes", "tenshot.core.device"},
    "safetensors": {"tenshot.io.tensor_files"},
}  # libraries, and the only modules that use them
HEAVY = {"torch", "numpy", "PIL", "peft", "diffusers", "transformers", "accelerate", "tensorboard", "safetensors"}
VERBS = {
    "dreambooth": "tenshot.train.options.DreamBoothOptions",
    "full": "tenshot.train.options.FullOptions",
    "lora": "tenshot.train.options.LoraOptions",
    "inversion": "tenshot.train.options.TextualInversionOptions",
    "distillation": "tenshot.train.distillation_options.DistillationOptions",
}  # recipes/<verb>.yaml, recipes/<verb>-<any>.yaml
USER_RECIPES = 6
POCKET_STAGES = 6

FILES = sorted(SRC.glob("tenshot/**/*.py"))
ALL_FILES = [*FILES, *sorted(ROOT.glob("recipes/**/*.py")), *sorted(ROOT.glob("tests/**/*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(module: str) -> set[str]:
    """Everything `module` imports, lazily or for type checking too. Of ours, the modules; of others, the names."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) or {base}
    return found


IMPORTS = {module: imports(module) for module in MODULES}


def room(module: str) -> str:
    """The part after `tenshot`; the package itself holds only its version and is below every floor."""
    return module.split(".")[1] if "." in module else ""


def floor(module: str) -> int:
    return next((number for number, rooms in enumerate(FLOORS) if room(module) in rooms), -1)


def inner(module: str) -> set[str]:
    return {other for other in IMPORTS[module] if other.split(".")[0] == "tenshot"}


def test_there_is_a_house():
    assert {"tenshot", "tenshot.core.errors", "tenshot.train.engine.loop"} <= MODULES.keys()
    assert "tenshot.core.errors" in inner("tenshot.core.options")


def test_every_module_has_a_floor():
    assert not [module for module in MODULES if module != "tenshot" and floor(module) < 0]


def test_every_import_of_ours_exists():
    assert not {(module, other) for module in MODULES for other in inner(module) if other not in MODULES}


def test_imports_run_downhill():
    assert not [(module, other) for module in MODULES for other in inner(module) if floor(other) > floor(module)]


def test_strangers_do_not_know_each_other():
    known = [(module, other) for module in MODULES for other in inner(module) if floor(module) == floor(other)]
    assert not [(one, other) for one, other in known if floor(one) in STRANGERS and room(one) != room(other)]


def test_imports_make_no_cycle():
    try:
        TopologicalSorter({module: inner(module) - {module} for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("library", ONE_DOOR)
def test_a_library_with_one_door_has_no_other(library: str):
    users = {module for module in MODULES if library in {other.split(".")[0] for other in IMPORTS[module]}}
    assert users == ONE_DOOR[library]


def test_every_package_declares_itself_and_says_little():
    assert not [path.parent for path in FILES if not (path.parent / "__init__.py").is_file()]
    assert not [path for path in FILES if path.name == "__init__.py" and len(path.read_text().splitlines()) >= 12]


def test_every_other_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [name for extra in extras.keys() - {"dev"} for name in extras[extra]]
    declared = {normal(re.split(r"[^\w.-]", name)[0]) for name in wanted}
    provider = packages_distributions()
    at_hand = {"tenshot", *sys.stdlib_module_names}
    tops = {other.split(".")[0] for module in MODULES for other in IMPORTS[module]} - at_hand
    assert not [top for top in tops if not {normal(name) for name in provider.get(top, [top])} & declared]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path: Path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 400
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    lines = {f"{node.name}, line {node.lineno}": node.end_lineno - node.lineno + 1 for node in functions}
    assert not {name: count for name, count in lines.items() if count >= 60}


def test_few_lines_say_any():
    lines = [line for path in FILES for line in path.read_text(encoding="utf-8").splitlines()]
    assert sum(bool(re.search(r"\bAny\b", line)) for line in lines) < 0.008 * len(lines)


def numbers(schema: dict) -> list[dict]:
    """The schemas of all numbers in a schema."""
    inner = [
        part for name in ("items", "additionalProperties") for part in [schema.get(name)] if isinstance(part, dict)
    ]
    own = [schema] if schema.get("type") in ("integer", "number") else []
    return own + [found for each in (*schema.get("anyOf", ()), *inner) for found in numbers(each)]


@pytest.mark.parametrize("verb", [" ".join(path) for path in verbs.VERBS])
def test_every_number_that_an_option_takes_has_bounds(verb: str):
    module, name = verbs.VERBS[tuple(verb.split())].options.split(":")
    for option in entries(getattr(import_module(module), name)).values():
        for found in numbers(dict(option.schema)):
            assert {"minimum", "exclusiveMinimum"} & found.keys(), option.name
            assert {"maximum", "exclusiveMaximum"} & found.keys(), option.name


@pytest.mark.parametrize("verb", [" ".join(path) for path in verbs.VERBS])
def test_help_and_refused_words_load_nothing_heavy(verb: str):
    """Both of a verb in one process: its help, and the refusal of all that can be told from the words alone."""
    code = (
        "import json, sys\n"
        "from tenshot.cli.main import main\n"
        f"codes = [main([*{verb!r}.split(), *more]) for more in (['--help'], ['--no_such_option', '1', '--json'])]\n"
        "print(json.dumps([codes, sorted(sys.modules)]))"
    )
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    *told, last = ran.stdout.splitlines()
    codes, loaded = json.loads(last)
    assert codes == [0, 2]
    assert "--recipe" in ran.stdout and "no such option" in told[-1]
    assert not HEAVY & set(loaded)


def options_of(recipe: Path) -> type[Options]:
    module, _, name = VERBS[recipe.stem.split("-")[0]].rpartition(".")
    return getattr(import_module(module), name)


def test_every_recipe_binds():
    recipes = sorted(ROOT.glob("recipes/*.yaml"))
    for recipe in recipes:
        resolve(options_of(recipe), read_recipe(recipe))
    assert len(recipes) == USER_RECIPES


def test_every_stage_of_the_pocket_model_binds():
    stages = yaml.safe_load((ROOT / "recipes/pocket/pocket.yaml").read_text())
    for stage in stages.values():
        resolve(LoopOptions, stage)
    assert len(stages) == POCKET_STAGES


def test_json_is_read_through_one_door():
    reads = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("load", "loads") and ast.unparse(node.value) == "json"
    }
    assert reads == {"tenshot.io.text_files"}
    assert not [path for path in FILES if "from json" in path.read_text(encoding="utf-8")]
