"""The layers of the code: the level of every package, its imports, and the picture of both.

`python docs/development/layers.py` writes `layers.svg` beside this file. `tests/test_layers.py`
fails on an import upwards, on a cycle, and where the picture is not that of the code.
"""

import ast
import graphlib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURE = Path(__file__).with_name("layers.svg")

# The lowest level first; a package imports from levels below its own alone. The packages in PLANNED
# do not exist yet: the table says where they are going to stand.
LEVELS: tuple[dict[str, str], ...] = (
    {"problem": "the initial value problem, validated and packed; errors"},
    {
        "solvers": "how one step is made, and how long it is",
        "plotting": "figures",
        "baselines": "the simple things that models are compared with",
        "storage": "saving and loading models",
    },
    {"integrate": "the forward solve of one trajectory: steps, events, save points"},
    {
        "batch": "many trajectories in SIMD lanes with a queue",
        "kernels": "an ensemble in one Pallas kernel",
    },
    {"sensitivity": "derivative rules", "training": "Optax loops"},
    {
        "drivers": "the routines that users call, and their options",
        "sde": "stochastic differential equations",
    },
    {
        "nn": "models and vector fields",
        "datasets": "data",
        "fitting": "fitting mechanistic models",
        "analysis": "reading what was learned",
        "pde": "partial differential equations by lines",
    },
    {"demo": "the demonstration", "jaxode": "the public names"},
    {"__main__": "the command line"},
)
# Columns of the picture, from the left.
COLUMNS = {
    0: ("sde", "fitting", "storage"),
    1: ("problem", "solvers", "integrate", "batch", "sensitivity", "drivers", "nn", "jaxode"),
    2: ("kernels", "datasets", "__main__"),
    3: ("baselines", "training", "analysis"),
    4: ("pde", "demo"),
    5: ("plotting",),
}
PLANNED = ("storage", "sde", "fitting", "analysis", "pde")
BENCHMARK_LEVELS = (
    ("harness", "problems", "results"),
    ("figures",),
    ("speed", "gradients", "accuracy"),
    ("gpu",),
    ("benchmarks", "__main__"),
)

Imports = dict[str, set[str]]


def imports_of(package: str) -> Imports:
    """The modules of `package` that each of its modules imports, inside functions too."""
    files = {_module(file): file for file in sorted((ROOT / package).rglob("*.py"))}
    return {name: _imported(file, set(files)) - {name} for name, file in files.items()}


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(file: Path, known: set[str]) -> set[str]:
    """Those of the `known` modules that a file imports."""
    package = file.relative_to(ROOT).parent.parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                found |= {whole if whole in known else source} & known
    return found


def package_of(module: str) -> str:
    """The package below the root that a module stands in; of the root's `__init__` the root."""
    return module.split(".")[1] if "." in module else module


def edges_of(imports: Imports) -> set[tuple[str, str]]:
    """Pairs `(importing, imported)` of packages below the root."""
    pairs = {(package_of(a), package_of(b)) for a, others in imports.items() for b in others}
    return {(a, b) for a, b in pairs if a != b}


def upward_imports(imports: Imports, levels: Iterable[Iterable[str]]) -> list[str]:
    """Every import that does not lead to a lower level, as "module -> module"."""
    level = {name: i for i, names in enumerate(levels) for name in names}
    return [
        f"{a} -> {b}"
        for a, others in imports.items()
        for b in sorted(others)
        if package_of(a) != package_of(b) and level[package_of(b)] >= level[package_of(a)]
    ]


def cycle_of(imports: Imports) -> list[str]:
    """A cycle of modules that import each other; empty where there is none."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def depth_of(edges: set[tuple[str, str]]) -> int:
    """The number of levels that the edges need: packages on the longest chain of imports."""
    graph: dict[str, set[str]] = {}
    for a, b in edges:
        graph.setdefault(a, set()).add(b)
    depth: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(graph).static_order():
        depth[name] = 1 + max((depth[other] for other in graph.get(name, ())), default=0)
    return max(depth.values())


def direct(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The edges that no chain of other edges implies (the transitive reduction)."""
    below: dict[str, set[str]] = {}

    def reachable(name: str) -> set[str]:
        if name not in below:
            nexts = {b for a, b in edges if a == name}
            below[name] = nexts | {c for b in nexts for c in reachable(b)}
        return below[name]

    return {
        (a, b)
        for a, b in edges
        if not any(b in reachable(c) for x, c in edges if x == a and c != b)
    }


_WIDTH, _ROW, _BOX, _HEIGHT, _COLUMN = 1300, 118, 192, 74, 210


def picture(edges: set[tuple[str, str]]) -> str:
    """An SVG of the levels, the highest on top: dark arrows are direct, pale ones implied."""
    places = _places()
    height = _ROW * len(LEVELS) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        'markerHeight="7" orient="auto">'
        '<path d="M0 0 L10 5 L0 10 z" fill="#2c5d8f"/></marker></defs>',
    ]
    plain = direct(edges)
    parts += [_arrow(places[a], places[b], False) for a, b in sorted(edges - plain)]
    parts += [_arrow(places[a], places[b], True) for a, b in sorted(plain)]
    for i, level in enumerate(LEVELS):
        y = _row(i) + _HEIGHT / 2
        parts.append(f'<text x="14" y="{y + 5:.0f}" font-size="15" fill="#8a8f98">{i + 1}</text>')
        parts += [_box(name, says, *places[name]) for name, says in level.items()]
    return "\n".join([*parts, "</svg>", ""])


def _row(level: int) -> float:
    return 20 + _ROW * (len(LEVELS) - 1 - level)


def _places() -> dict[str, tuple[float, float]]:
    """The upper left corner of each package's box."""
    column = {name: i for i, names in COLUMNS.items() for name in names}
    return {
        name: (40 + _COLUMN * column[name], _row(i))
        for i, level in enumerate(LEVELS)
        for name in level
    }


def _arrow(above: tuple[float, float], below: tuple[float, float], strong: bool) -> str:
    (x0, y0), (x1, y1) = above, below
    x0, x1, y0 = x0 + _BOX / 2, x1 + _BOX / 2, y0 + _HEIGHT
    bend = (y1 - y0) / 2
    style = 'stroke="#2c5d8f" stroke-width="1.6" marker-end="url(#tip)"'
    if not strong:
        style = 'stroke="#d5dbe3" stroke-width="1"'
    return (
        f'<path d="M{x0:.0f} {y0:.0f} C{x0:.0f} {y0 + bend:.0f} {x1:.0f} {y1 - bend:.0f} '
        f'{x1:.0f} {y1:.0f}" fill="none" {style}/>'
    )


def _box(name: str, says: str, x: float, y: float) -> str:
    planned = name in PLANNED
    stroke = 'stroke="#b9bfc8" stroke-dasharray="5 4"' if planned else 'stroke="#2c5d8f"'
    colour = "#8a8f98" if planned else "#1d2733"
    lines = _wrapped(says)
    middle = x + _BOX / 2
    text = [
        f'<text x="{middle:.0f}" y="{y + 20:.0f}" font-size="15" font-weight="bold" '
        f'text-anchor="middle" fill="{colour}">{name}</text>'
    ]
    text += [
        f'<text x="{middle:.0f}" y="{y + 36 + 13 * i:.0f}" font-size="11" text-anchor="middle" '
        f'fill="{colour}">{line}</text>'
        for i, line in enumerate(lines)
    ]
    box = (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{_BOX}" height="{_HEIGHT}" rx="6" '
        f'fill="#f7f9fb" {stroke}/>'
    )
    return "\n".join([box, *text])


def _wrapped(text: str, most: int = 33) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


if __name__ == "__main__":
    PICTURE.write_text(picture(edges_of(imports_of("jaxode"))))
