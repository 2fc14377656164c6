"""The benchmarks by name."""

# The module of each benchmark, in the order of the page.
MODULES = {
    "lorenz": "speed.lorenz",
    "lotka_volterra": "speed.lotka_volterra",
    "neural_ode": "speed.neural_ode",
    "gradients": "gradients.end_states",
    "gradient_modes": "gradients.modes",
    "adjoint_memory": "gradients.adjoint_memory",
    "adjoint_evaluations": "gradients.adjoint_evaluations",
    "ensembles": "speed.ensembles",
    "neural_batch": "speed.neural_batch",
    "batch_scaling": "speed.batch_scaling",
    "stiff": "speed.stiff",
    "stiff_batch": "speed.stiff_batch",
    "stiff_pde": "speed.stiff_pde",
    "reversible": "gradients.reversible",
    "events": "speed.events",
    "models": "speed.models",
    "eager_calls": "speed.eager_calls",
    "two_devices": "speed.two_devices",
}
