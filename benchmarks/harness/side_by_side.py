"""The settings of jaxode and of its peer in a benchmark, for the table on its page."""

from benchmarks.harness.markdown import markdown_table

# For each setting, jaxode's and the peer's.
Settings = dict[str, tuple[str, str]]

# What each page says. "as the row says": the settings of a row stand in its name or its note.
REQUIRED = (
    "solver", "rtol", "atol", "first step", "controller", "adjoint", "max_steps", "dtype",
    "threads",
)  # fmt: skip
IN_ROW = "as the row says"
NOT_USED = "none"


def beside_diffrax(rtol: str, atol: str, **other: str | tuple[str, str]) -> Settings:
    """Settings of a benchmark beside diffrax's Tsit5, with those that differ from the defaults.

    One text is for both sides, a pair for each; `_` in a name stands for a space.
    """
    settings: dict[str, str | tuple[str, str]] = {
        "solver": "Tsit5",
        "rtol": rtol,
        "atol": atol,
        "first step": "chosen by the solver",
        "controller": ("jo.PID(), its defaults: I", "PIDController, its defaults: I"),
        "adjoint": ("jo.Discrete()", "RecursiveCheckpointAdjoint()"),
        "max_steps": "4096",
        "dtype": "float64",
        "threads": "1",
    }
    known = {name.replace(" ", "_"): name for name in settings}
    settings |= {known.get(name, name.replace("_", " ")): text for name, text in other.items()}
    return {
        name: (text, text) if isinstance(text, str) else text for name, text in settings.items()
    }


def settings_table(settings: Settings) -> str:
    """The settings in Markdown."""
    lines = markdown_table(
        ["setting", "jaxode", "peer"], [(name, *both) for name, both in settings.items()]
    )
    return "\n".join(lines) + "\n"
