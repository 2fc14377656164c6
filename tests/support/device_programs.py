"""Programs over several devices, each for a process of its own, which saves what came out.

`python device_programs.py FILE NAME [NUMBER PORT]` runs the program NAME.
"""

import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxode as jo
from tests.support.batches import outcome
from tests.support.differences import weighted

TS, AXES = np.array([0.2, 0.5, 0.9, 1.4]), (0, None, {"k": 0, "push": None})
OPTIONS = {"in_axes": AXES, "solver": "bosh3", "rtol": 1e-7, "atol": 1e-9}


def spread(kind: str) -> NamedSharding:
    """All devices, on a mesh whose axis is of this kind."""
    devices, axes = np.array(jax.devices()), ("batch",)
    mesh = Mesh(devices, axes) if kind == "auto" else jax.make_mesh((devices.size,), axes)
    assert mesh.axis_types[0].name.lower() == kind
    return NamedSharding(mesh, PartitionSpec("batch"))


def pull(t, y, args):
    return args["k"] * (args["push"] * jnp.cos(t) - jnp.sin(y))


def point(count: int) -> dict[str, jax.Array]:
    """States and rates of each trajectory, and a push that they share."""
    y0 = jax.random.normal(jax.random.key(0), (19, 2))[:count]
    return {"y0": y0, "k": jnp.geomspace(0.1, 9.0, 19)[:count], "push": jnp.array([0.7, 1.1])}


def solved(p: Any, **options: Any) -> Any:
    args = {"k": p["k"], "push": p["push"]}
    return outcome(jo.solve_batch(pull, p["y0"], TS, args, **OPTIONS, **options))


def gradient(p: Any, **options: Any) -> tuple[Any, str]:
    """Gradient and solution, compiled together; the collectives of that program."""

    def loss(p: Any) -> tuple[jax.Array, Any]:
        out = solved(p, **options)
        return weighted(out[:2]), out

    compiled = jax.jit(jax.grad(loss, has_aux=True)).lower(p).compile()
    return compiled(p), collectives(compiled)


def collectives(compiled: Any) -> str:
    names = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
    return " ".join(name for name in names if name in compiled.as_text())


def forward() -> dict[str, Any]:
    def solve(p: Any, **options: Any) -> Any:
        return solved(p, max_steps=110, **options)  # too few for seven of the trajectories

    auto, explicit = spread("auto"), spread("explicit")
    one = jax.jit(lambda p: solve(p, sharding=auto)).lower(point(16)).compile()
    results = {
        "auto 16": one(point(16)),
        "given 16": solve(point(16) | {"y0": jax.device_put(point(16)["y0"], auto)}),
        "explicit 16": solve(point(16), sharding=explicit),
    }
    return results | {
        "rows": [x.sharding.shard_shape(x.shape)[0] for x in jax.tree.leaves(results)],
        "one device": solve(point(19)),
        "auto 19": solve(point(19), sharding=auto),
        "explicit 19": solve(point(19), sharding=explicit),
        "collectives": collectives(one),
    }


def gradients() -> dict[str, Any]:
    results = {}
    for mode, kind, count in (("discrete", "explicit", 16), ("adjoint", "auto", 19)):
        results[f"{mode}, one device"], _ = gradient(point(count), sensitivity=mode)
        results[mode], results[f"{mode}, collectives"] = gradient(
            point(count), sensitivity=mode, sharding=spread(kind)
        )
    return results


def mapped_by_hand() -> dict[str, Any]:
    """Values and gradients inside of `jax.shard_map`, which checks over what arrays vary."""
    mesh, results = spread("auto").mesh, {}
    rows, shared = PartitionSpec("batch"), PartitionSpec()
    y0, rates = point(16)["y0"], point(16)["k"]

    def of_batch(y0: Any, k: Any, push: Any, **options: Any) -> Any:
        return jo.solve_batch(pull, y0, TS, {"k": k, "push": push}, **OPTIONS, **options).ys

    def of_each(y0: Any, k: Any, push: Any, **options: Any) -> Any:
        options |= {"solver": "bosh3", "rtol": 1e-7, "atol": 1e-9}
        return jax.vmap(lambda y, k: jo.solve(pull, y, TS, {"k": k, "push": push}, **options).ys)(
            y0, k
        )

    ways = {"batch": (of_batch, "discrete"), "vmap": (of_each, "adjoint")}
    for name, (solve, sensitivity) in ways.items():

        def whole(y0: Any, k: Any, push: Any, run: Any = solve, mode: str = sensitivity) -> Any:
            return run(y0, k, push, sensitivity=mode)

        specs = {"in_specs": (rows, rows, shared), "out_specs": rows, "check_vma": True}
        shards = jax.shard_map(whole, mesh=mesh, **specs)

        for label, run in ((name, shards), (f"{name}, whole", whole)):
            value_and_gradients = jax.value_and_grad(
                lambda *p, run=run: weighted(run(*p)), (0, 1, 2)
            )
            results[label] = jax.jit(value_and_gradients)(y0, rates, jnp.array([0.7, 1.1]))
    return results


def training() -> dict[str, Any]:
    x = jax.random.normal(jax.random.key(0), (16, 2))
    network = eqx.nn.MLP(2, 2, 8, 1, activation=jnp.tanh, key=jax.random.key(1))
    adaptive, fixed = (jo.NeuralODE(network, solver=s, dt=0.25) for s in ("bosh3", "midpoint"))

    def history(model: jo.NeuralODE, size: int, **more: Any) -> dict[str, np.ndarray]:
        data, optimizer = (x[:size], jnp.sin(x[:size])), optax.sgd(0.1)
        return jo.fit(model, data, steps=3, optimizer=optimizer, progress=False, **more)[1].history

    results: dict[str, Any] = {}
    for kind, model, batch_size in (("auto", adaptive, None), ("explicit", fixed, 8)):
        for name, sharding in ((f"{kind}, one device", None), (kind, spread(kind))):
            results[name] = history(model, 16, batch_size=batch_size, sharding=sharding)
    for size, batch_size in ((12, None), (16, 12)):
        try:
            history(fixed, size, batch_size=batch_size, sharding=spread("auto"))
        except jo.DataError as error:
            results[f"{size} samples"] = str(error)

    def drawing(model: eqx.nn.MLP, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
        drawn = jax.random.uniform(key)
        return jnp.mean(jax.vmap(model)(batch) ** 2), {"drawn": drawn, "square": drawn**2}

    options: dict[str, Any] = {"steps": 2, "progress": False, "sharding": spread("auto")}
    means = jo.fit(network, x, loss=drawing, **options)[1].history
    results["variance of draws"] = means["square"] - means["drawn"] ** 2
    return results


def process(number: str, port: str) -> dict[str, Any]:
    """One of two processes, each with one device and half of the trajectories."""
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(number))
    own, p, rows = spread("auto"), point(16), slice(8 * int(number), 8 * int(number) + 8)
    shardings = {"y0": own, "k": own, "push": NamedSharding(own.mesh, PartitionSpec())}
    local = {"y0": p["y0"][rows], "k": p["k"][rows], "push": p["push"]}
    both = jax.tree.map(jax.make_array_from_process_local_data, shardings, local)
    (together, names), (alone, _) = gradient(both, sharding=own), gradient(p)
    shards = jax.tree.map(lambda x: x.addressable_shards[0], together)
    return {
        "together": [shard.data for shard in jax.tree.leaves(shards)],
        "alone": jax.tree.map(lambda x, shard: x[shard.index], alone, shards),
        "collectives": names,
    }


def main(file: str, name: str, *rest: str) -> None:
    jax.config.update("jax_enable_x64", True)
    results = globals()[name](*rest)
    arrays: dict[str, Any] = {
        f"{name}/{i}": np.asarray(leaf)
        for name, tree in results.items()
        for i, leaf in enumerate(jax.tree.leaves(tree))
    }
    np.savez(file, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
