"""The house keeps its shape: sizes of files and functions, values instead of configs, no private name taken."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for room in ("pipeline", "models", "cache", "benchmarks") for path in (ROOT / room).rglob("*.py"))
MAX_LINES, MAX_PARAMETERS = 300, 8
MANY_PARAMETERS = {
    ("benchmarks/plain_i3d.py", "__init__"): "a network's architecture",
    ("models/frozen/bottleneck.py", "forward"): "torch.autograd.Function takes every tensor by itself",
    ("pipeline/stages/crops.py", "run"): "the options of its command",
}


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path):
    return path.relative_to(ROOT).as_posix()


def parameters(function):
    arguments = function.args
    found = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [one for one in found if one.arg not in ("self", "cls", "ctx")]


def functions(path):
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_files_fit_into_a_head():
    assert (
        FILES
        and {
            name(path): len(path.read_text().splitlines())
            for path in FILES
            if len(path.read_text().splitlines()) > MAX_LINES
        }
        == {}
    )


def test_functions_take_few_parameters():
    many = {
        (name(path), one.name) for path in FILES for one in functions(path) if len(parameters(one)) > MAX_PARAMETERS
    }
    assert many == MANY_PARAMETERS.keys()


@pytest.mark.parametrize("room", ["data", "workers"])
def test_lower_rooms_take_values(room):
    """Neither a whole config nor a run folder. One section of a config is a value."""
    whole = {"Config", "RunFolder", "Stores"}
    found = [
        (name(path), one.name)
        for path in (ROOT / "pipeline" / room).rglob("*.py")
        for one in functions(path)
        for parameter in parameters(one)
        if parameter.annotation
        and whole & {leaf.id for leaf in ast.walk(parameter.annotation) if isinstance(leaf, ast.Name)}
    ]
    assert found == []


def test_private_names_stay_in_their_file():
    taken = [
        (name(path), alias.name)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("pipeline", "models", "cache")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert taken == []


def test_packages_say_what_lives_there():
    """In one sentence, and in a README of a screen or two."""
    for path in (path for path in FILES if path.name == "__init__.py"):
        said = ast.get_docstring(tree(path))
        assert said and said.count("\n\n") == 0, name(path)
    rooms = [path.parent for path in FILES if path.name == "__init__.py" and path.parent.parent.name == "pipeline"]
    for room in [*rooms, ROOT / "models", ROOT / "cache", ROOT / "benchmarks"]:
        assert (room / "README.md").is_file(), name(room)


def test_the_training_loop_is_in_plain_sight():
    """No function of it takes more than six parameters, and its steps stand in one function, in order."""
    path = ROOT / "pipeline/training/loop.py"
    assert max(len(parameters(one)) for one in functions(path)) <= 6
    loop = next(one for one in functions(path) if one.name == "_train")
    text = ast.unparse(loop)
    order = ["for batch in epoch_batches", "to_device(batch", "data.loss(", ".backward()", "optimiser.step()", "save("]
    places = [text.index(step) for step in order]
    assert places == sorted(places) and not [node for node in ast.walk(loop) if isinstance(node, ast.FunctionDef)][1:]
