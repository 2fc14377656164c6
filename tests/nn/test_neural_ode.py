"""NeuralODE and fit: the tutorial, training by hand, augmentation, options, logs."""

import contextlib
import functools
import io

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import expm

import jaxode as jo

X, LABELS = jo.datasets.Spiral(n_points=64)()
EVERY_OPTION = {
    "solver": "dopri5",
    "sensitivity": "adjoint",
    "rtol": 1e-3,
    "atol": 1e-4,
    "dt": 0.1,
    "controller": jo.PI(),
    "max_steps": 100,
    "throw": False,
    "progress": False,
}


def network(width=2, depth=1):
    return eqx.nn.MLP(width, width, 16, depth, activation=jnp.tanh, key=jax.random.key(0))


@functools.cache
def ten_steps():
    """A model, what ten steps of `fit` make of it, their log, and what the progress bar shows."""
    model, bar = jo.NeuralODE(network(), rtol=jnp.array(1e-4), atol=1e-6), io.StringIO()
    with contextlib.redirect_stderr(bar):
        trained, log = jo.fit(
            model, (X, LABELS), loss="cross_entropy", optimizer=optax.adam(1e-2), steps=10,
            progress=True,
        )  # fmt: skip
    return model, trained, log, bar.getvalue()


@pytest.mark.slow
def test_training_with_plain_equinox_and_optax_is_the_same():
    model, trained, log, _ = ten_steps()
    optimizer = optax.adam(1e-2)

    @eqx.filter_jit
    def step(model, state):
        def loss(model):
            logits = jax.vmap(model)(X)
            return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

        value, gradient = eqx.filter_value_and_grad(loss)(model)
        updates, state = optimizer.update(gradient, state)
        return eqx.apply_updates(model, updates), state, value

    state, losses = optimizer.init(eqx.filter(model, eqx.is_inexact_array)), []
    for _ in range(10):
        model, state, value = step(model, state)
        losses.append(float(value))
    # The batch as a whole takes other steps than each sample alone does.
    np.testing.assert_allclose(losses, log.loss, rtol=1e-3)
    np.testing.assert_allclose(model(X), trained(X), atol=1e-2)


def test_log_and_progress_bar_of_a_named_loss():
    _, _, log, bar = ten_steps()
    assert "fit: 100%" in bar
    assert isinstance(log, jo.Log)
    assert set(log.history) == {"loss", "accuracy", "evaluations", "rejected"}
    assert all(values.shape == (10,) for values in log.history.values())
    assert log.ms_per_step > 0
    assert log.compile_seconds > 0
    for part in ("10 steps: ", "loss ", "accuracy ", "ms/step", "compiled in"):
        assert part in log.summary()


def test_only_parameters_are_trained():
    model, trained, _, _ = ten_steps()
    assert trained.settings.rtol == model.settings.rtol
    assert trained.settings.solver == model.settings.solver
    assert not np.allclose(trained.field.layers[0].weight, model.field.layers[0].weight)


@pytest.mark.slow
def test_augmented_model_tells_the_spirals_apart():
    train, held_out = (
        jo.datasets.Spiral(n_points=100, key=jax.random.key(seed))() for seed in (1, 2)
    )
    field = eqx.nn.MLP(4, 4, 24, 2, activation=jnp.tanh, key=jax.random.key(0))
    model, _ = jo.fit(
        Classifier(jo.NeuralODE(field, augment=2, rtol=1e-3, atol=1e-4)), train,
        loss=cross_entropy, optimizer=optax.adam(2e-2), steps=200, progress=False,
    )  # fmt: skip
    found = jnp.argmax(model(held_out[0]), axis=-1)
    assert jnp.mean(found == held_out[1]) >= 0.98


class Classifier(eqx.Module):
    """The first two features that an augmented flow ends at, as logits."""

    flow: jo.NeuralODE

    def __call__(self, x):
        return 3.0 * self.flow(x)[..., :2]


def cross_entropy(model, batch):
    logits = model(batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


@pytest.mark.parametrize("augment", [0, 2])
def test_inverse_undoes_the_flow(augment):
    model = jo.NeuralODE(network(2 + augment), augment=augment, rtol=1e-10, atol=1e-12)
    back = model.inverse(model(X))
    np.testing.assert_allclose(back[:, :2], X, atol=1e-8)
    np.testing.assert_allclose(back[:, 2:], 0.0, atol=1e-8)


def test_times_give_the_trajectory_from_the_input():
    model = jo.NeuralODE(network(3), augment=1, rtol=1e-8, atol=1e-8)
    ts = jnp.linspace(0.0, 1.0, 5)
    path = model(X, ts)
    assert path.shape == (64, 5, 3)  # the batch first, as of solve_batch
    np.testing.assert_array_equal(path[:, 0, :2], X)
    np.testing.assert_array_equal(path[:, 0, 2], 0.0)
    np.testing.assert_allclose(path[:, -1], model(X), rtol=1e-10)
    assert model(X[0], ts).shape == (5, 3)


def test_span_of_depth():
    model = jo.NeuralODE(lambda t, y: t * y, t0=1.0, t1=2.0, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model(X), np.exp(1.5) * X, rtol=1e-7)


@pytest.mark.parametrize(
    "field",
    [lambda y: 2.0 * y, lambda t, y: 2.0 * y + 0 * t, lambda t, y, args: args * y],
)
def test_fields_of_one_two_or_three_arguments(field):
    model = jo.NeuralODE(field, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model(X, args=2.0), np.exp(2.0) * X, rtol=1e-7)


def test_a_layer_that_takes_a_key_is_called_with_the_state_alone():
    layer = eqx.nn.Linear(2, 2, key=jax.random.key(0))
    model = jo.NeuralODE(layer, rtol=1e-9, atol=1e-9)
    affine = np.zeros((3, 3))  # a third component of one multiplies the bias
    affine[:2] = np.c_[layer.weight, layer.bias]
    np.testing.assert_allclose(model(X), np.c_[X, np.ones(64)] @ expm(affine).T[:, :2], rtol=1e-7)


def test_the_name_of_torchdyn_is_the_same_class():
    assert jo.NeuralDE is jo.NeuralODE


def test_one_sample_and_a_batch_agree():
    model = jo.NeuralODE(network(), rtol=1e-9, atol=1e-9)
    assert model(X[0]).shape == (2,)
    np.testing.assert_allclose(model(X), jax.vmap(model)(X), rtol=1e-6)


def test_samples_of_more_axes():
    model = jo.NeuralODE(lambda y: -y, augment=2, rtol=1e-8, atol=1e-8)
    images = jax.random.normal(jax.random.key(0), (5, 3, 4, 4))
    zeros = jnp.zeros((5, 2, 4, 4))
    expected = np.exp(-1.0) * jnp.concatenate([images, zeros], axis=1)
    np.testing.assert_allclose(model(images), expected, rtol=1e-6)


def test_a_layer_of_a_sequential_model():
    flow, linear = jo.NeuralODE(network()), eqx.nn.Linear(2, 3, key=jax.random.key(1))
    layers = eqx.nn.Sequential([flow, linear])
    np.testing.assert_allclose(layers(X[0]), linear(flow(X[0])), rtol=1e-12)


@pytest.mark.parametrize("options", [EVERY_OPTION, {}], ids=["all", "none"])
def test_every_option_of_solve_goes_by_the_same_name(options):
    model = jo.NeuralODE(network(), **options)
    field = model.field
    sol = jo.solve(lambda t, y, args: field(y), X[0], (0.0, 1.0), **{"rtol": 1e-3, **options})
    np.testing.assert_allclose(model(X[0]), sol.y1, rtol=1e-12)
    assert model.solve(X[0]).stats.num_steps == sol.stats.num_steps


def test_a_failing_solve_throws_or_not():
    with pytest.raises(jo.SolveError, match="MAX_STEPS"):
        jo.NeuralODE(network(), max_steps=1, dt=0.1)(X)
    assert np.all(np.isnan(jo.NeuralODE(network(), max_steps=1, dt=0.1, throw=False)(X)))


def test_leaves_can_be_written_and_read_again(tmp_path):
    model, other = jo.NeuralODE(network()), jo.NeuralODE(network())
    other = eqx.tree_at(lambda m: m.field.layers[0].bias, other, replace_fn=lambda b: b + 1.0)
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", model)
    again = eqx.tree_deserialise_leaves(tmp_path / "model.eqx", other)
    np.testing.assert_array_equal(again(X), model(X))


def test_minibatches_are_drawn_afresh_and_by_the_key():
    def run(**options):
        """The losses of a network that does not learn, so that the minibatches alone differ."""
        return jo.fit(
            network(), (X, LABELS), loss="cross_entropy", steps=4, batch_size=8,
            optimizer=optax.sgd(0.0), progress=False, **options,
        )[1].loss  # fmt: skip

    first = run()
    np.testing.assert_array_equal(first, run(key=jax.random.key(0)))
    assert not np.allclose(first, run(key=jax.random.key(1)))
    assert len(set(first)) == 4


def test_custom_loss_with_a_key_and_stats():
    def loss(model, batch, key):
        sol = model.solve(batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape))
        assert isinstance(sol.stats, jo.Stats)
        return jnp.mean(sol.y1**2), {"stats": sol.stats, "largest": jnp.max(sol.y1)}

    _, log = jo.fit(
        jo.NeuralODE(network()),
        {"x": X},
        loss=loss,
        steps=20,
        optimizer=optax.adam(1e-2),
        progress=False,
    )
    assert set(log.history) == {"loss", "largest", "evaluations", "rejected"}
    assert log.loss[-1] < log.loss[0]
    assert np.all(log.history["evaluations"] >= 8)


def test_a_plain_module_is_mapped_over_the_batch():
    trained, log = jo.fit(network(), (X, X), loss="mse", metric="mse", steps=3, progress=False)
    np.testing.assert_allclose(log.history["mse"], log.loss)
    assert isinstance(trained, eqx.nn.MLP)


def test_each_sample_may_have_times_of_its_own():
    model = jo.NeuralODE(network(), rtol=1e-9, atol=1e-9)
    ts = jnp.array([[0.0, 0.3, 0.9], [0.0, 0.5, 0.5], [0.2, 0.4, 1.5]])  # the second ends early
    path = model(X[:3], ts)
    assert path.shape == (3, 3, 2)
    for sample in range(3):
        np.testing.assert_allclose(path[sample], model(X[sample], ts[sample]), rtol=1e-7)


def test_arguments_of_each_sample():
    model = jo.NeuralODE(lambda t, y, args: args["own"] * args["all"] * y, rtol=1e-9, atol=1e-9)
    args = {"own": jnp.array([0.5, 1.0, 2.0]), "all": 0.7}
    y1 = model(X[:3], args=args, args_axes={"own": 0, "all": None})
    np.testing.assert_allclose(y1, np.exp(0.7 * args["own"])[:, None] * X[:3], rtol=1e-7)


def test_an_unknown_option_is_named():
    with pytest.raises(jo.OptionError, match=r"no option called 'rtoll'.*'rtol'"):
        jo.NeuralODE(network(), rtoll=1e-3)  # pyright: ignore[reportCallIssue]
