"""`jo.cache`: programs are written to disk, and read instead of compiled."""

import os

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

import jaxode as jo

SETTINGS = (
    "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)  # fmt: skip


@pytest.fixture(autouse=True)
def settings_of_before():
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def solved():
    jax.clear_caches()
    return jo.solve(lambda t, y, k: -k * jnp.sin(y), jnp.ones(2), (0.0, 1.0), 0.7).y1


def test_a_program_is_written_once_and_read_afterwards(tmp_path):
    assert jo.cache(tmp_path / "programs") == tmp_path / "programs"
    first = solved()
    names = sorted(os.listdir(tmp_path / "programs"))
    assert any("cache" in name for name in names)
    compiled = []
    listener = lambda event, **_: compiled.append(event)  # noqa: E731
    jax.monitoring.register_event_listener(listener)
    try:
        assert jnp.array_equal(solved(), first)
    finally:
        jax.monitoring.unregister_event_listener(listener)
    hits = compiled.count("/jax/compilation_cache/cache_hits")
    assert hits > 0
    assert "/jax/compilation_cache/cache_misses" not in compiled


def test_the_folder_by_default_is_that_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "chosen"))
    assert jo.cache() == tmp_path / "chosen"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert jo.cache() == tmp_path / "caches" / "jaxode"
    assert (tmp_path / "caches" / "jaxode").is_dir()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(jo.OptionError, match=r"cannot be made"):
        jo.cache(tmp_path / "file" / "below")
    with pytest.raises(jo.OptionError, match=r"directory must be a path, got 3"):
        jo.cache(3)  # pyright: ignore[reportArgumentType]
