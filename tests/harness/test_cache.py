"""The artifact cache: whole entries or none, verified, shared by processes."""

from __future__ import annotations

import logging
import multiprocessing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from harness.artifact import LAUNCHER, MANIFEST, Artifact, ArtifactManifest
from harness.cache import ArtifactCache, CacheError, artifact_key, source_digest
from harness.compile_result import CompileFailure
from harness.record import Outcome
from tests.harness.tiny_family import PROBLEM, TARGET, TinyConfig, TinyFamily

TOOLCHAIN = {"nvidia-cutlass-dsl": "4.8.1"}
KEY = "0" * 32


def publish(cache: ArtifactCache, key: str = KEY, contents: bytes = b"launcher") -> Artifact:
    with cache.scratch(key) as folder:
        (folder / LAUNCHER).write_bytes(contents)
        manifest = ArtifactManifest(
            key=key,
            family="tiny",
            problem={},
            config={},
            target=TARGET,
            toolchain=TOOLCHAIN,
            digests={LAUNCHER: sha256(contents).hexdigest()},
        )
        return cache.publish(manifest, folder)


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


def test_a_published_artifact_is_found(cache: ArtifactCache) -> None:
    assert cache.lookup(KEY) is None
    published = publish(cache)
    assert cache.lookup(KEY) == published
    assert published.launcher.read_bytes() == b"launcher"


def test_publishing_twice_keeps_the_first(cache: ArtifactCache) -> None:
    publish(cache)
    assert publish(cache) == cache.lookup(KEY)


@pytest.mark.parametrize(
    ("file", "contents"), [(LAUNCHER, b"launches"), (MANIFEST, b"{"), (MANIFEST, b'{"schema": "other/9"}')]
)
def test_a_corrupt_entry_is_moved_aside_with_one_warning(
    cache: ArtifactCache, caplog: pytest.LogCaptureFixture, file: str, contents: bytes
) -> None:
    artifact = publish(cache)
    (artifact.folder / file).write_bytes(contents)
    with caplog.at_level(logging.WARNING):
        assert cache.lookup(KEY) is None
        assert cache.lookup(KEY) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(artifact.folder) in caplog.text
    assert publish(cache) == cache.lookup(KEY), "the place is free for a new artifact"


def test_an_entry_under_another_key_is_not_used(cache: ArtifactCache) -> None:
    artifact = publish(cache)
    artifact.folder.rename(artifact.folder.with_name("1" * 32))
    assert cache.lookup("1" * 32) is None


def test_an_interrupted_write_leaves_no_entry(cache: ArtifactCache) -> None:
    def interrupted() -> None:
        with cache.scratch(KEY) as folder:
            (folder / LAUNCHER).write_bytes(b"laun")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert cache.lookup(KEY) is None
    assert list((cache.root / "scratch").iterdir()) == []


def test_a_failure_is_remembered(cache: ArtifactCache) -> None:
    failure = CompileFailure(KEY, Outcome.COMPILE_ERROR, "does not fit", 1.5)
    cache.publish_failure(failure)
    assert cache.lookup(KEY) == failure


def test_a_corrupt_failure_is_not_used(cache: ArtifactCache) -> None:
    cache.publish_failure(CompileFailure(KEY, Outcome.COMPILE_ERROR, "does not fit", 1.5))
    (cache.root / "failures" / f"{KEY}.json").write_text('{"key": "')
    assert cache.lookup(KEY) is None


def test_a_timeout_stands_for_shorter_limits_only() -> None:
    timeout = CompileFailure(KEY, Outcome.TIMEOUT, "slow", 60.0)
    assert timeout.stands(30.0)
    assert not timeout.stands(90.0)
    assert replace(timeout, outcome=Outcome.COMPILE_ERROR).stands(90.0)


def _publish_many(root: Path, barrier: multiprocessing.synchronize.Barrier, name: int) -> None:
    cache = ArtifactCache(root)
    for index in range(20):
        key = f"{index:032}"
        barrier.wait()
        with cache.lock(key):
            if cache.lookup(key) is None:
                publish(cache, key)
                (root / f"compiled-{key}-{name}").touch()


def test_concurrent_writers_publish_each_key_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    writers = [context.Process(target=_publish_many, args=(tmp_path, barrier, name)) for name in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(list(tmp_path.glob("compiled-*"))) == 20
    cache = ArtifactCache(tmp_path)
    assert all(isinstance(cache.lookup(f"{index:032}"), Artifact) for index in range(20))


def test_an_unwritable_root_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        CacheError, match=r"cannot write the artifact cache .*file/cache .* ROUTERTUNE_CACHE$"
    ):
        ArtifactCache(tmp_path / "file" / "cache")


def test_the_environment_names_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTERTUNE_CACHE", str(tmp_path / "named"))
    assert ArtifactCache().root == tmp_path / "named"


def test_the_key_depends_on_all_that_the_code_depends_on(tmp_path: Path) -> None:
    class OtherSources(TinyFamily):
        def source_files(self) -> tuple[Path, ...]:
            return (source,)

    source = tmp_path / "kernel.py"
    source.write_text("tile = 1\n")
    config = TinyConfig()
    keys = {
        artifact_key(TinyFamily(), PROBLEM, config, TARGET, TOOLCHAIN),
        artifact_key(TinyFamily(), replace(PROBLEM, top_k=3), config, TARGET, TOOLCHAIN),
        artifact_key(TinyFamily(), PROBLEM, TinyConfig(offset=1), TARGET, TOOLCHAIN),
        artifact_key(TinyFamily(), PROBLEM, config, "sm_100a", TOOLCHAIN),
        artifact_key(TinyFamily(), PROBLEM, config, TARGET, {"nvidia-cutlass-dsl": "4.8.2"}),
        artifact_key(OtherSources(), PROBLEM, config, TARGET, TOOLCHAIN),
    }
    source.write_text("tile = 2\n")
    source_digest.cache_clear()  # as a new process would
    keys.add(artifact_key(OtherSources(), PROBLEM, config, TARGET, TOOLCHAIN))
    assert len(keys) == 7
    assert artifact_key(TinyFamily(), PROBLEM, config, TARGET, TOOLCHAIN) in keys
