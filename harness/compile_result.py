"""What became of one compile. Free of heavy imports: whoever only measures artifacts needs it too."""

from __future__ import annotations

from dataclasses import dataclass

from harness.artifact import Artifact
from harness.record import Outcome

FAILURE_SCHEMA = "routertune.compile_failure/1"


@dataclass(frozen=True)
class CompileFailure:
    """A compile that failed, as the cache keeps it. `outcome` is `compile_error` or `timeout`."""

    key: str
    outcome: Outcome
    reason: str
    seconds: float
    schema: str = FAILURE_SCHEMA

    def stands(self, timeout_s: float) -> bool:
        """Whether a compile that may take `timeout_s` would fail in the same way."""
        return self.outcome is not Outcome.TIMEOUT or self.seconds >= timeout_s


@dataclass(frozen=True)
class CompileResult:
    """One candidate's compile.

    Attributes:
        key: the artifact's key, known even when there is no artifact.
        artifact: the verified artifact; None unless `outcome` is `compiled`.
        outcome: `compiled`, `compile_error` or `timeout`.
        reason: one line; empty when compiled.
        seconds: what the compile took when it was done; a hit in the cache keeps the original's.
        from_cache: whether nothing was compiled for this result.
    """

    key: str
    artifact: Artifact | None
    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0
    from_cache: bool = False

    @classmethod
    def of_artifact(cls, artifact: Artifact, *, from_cache: bool) -> CompileResult:
        return cls(
            artifact.key,
            artifact,
            Outcome.COMPILED,
            seconds=artifact.manifest.compile_s,
            from_cache=from_cache,
        )

    @classmethod
    def of_failure(cls, failure: CompileFailure, *, from_cache: bool) -> CompileResult:
        return cls(failure.key, None, failure.outcome, failure.reason, failure.seconds, from_cache)
