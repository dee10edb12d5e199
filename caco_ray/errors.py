"""Every error that caco_ray raises on purpose.

    CacoError
    ├── UserError                   the user can mend it: one line (what, where, what to do), exit code 2
    │   ├── ConfigError             a key or value of the configuration
    │   ├── SeedError               a seed file: names the file, line or row, and field
    │   ├── ModelError              a model folder or endpoint that cannot be used
    │   ├── RunDirError             a run directory of another config, damaged or foreign files in it
    │   └── TransientError          may pass by itself: exit code 75 (EX_TEMPFAIL of sysexits.h), and the same command may be tried again
    │       ├── ClusterError        Ray does not answer, or lacks what the run needs
    │       ├── StorageError        disk full, read-only, credentials missing, no answer
    │       └── InfraErrorsError    the machinery failed on more rows than the config allows
    ├── SandboxUnavailableError     the sandbox cannot give the isolation that was required
    ├── EngineError                 the engine failed, not the row
    │   └── EngineUnreachableError  an endpoint is away for now: wait for it
    ├── StageStalledError           nothing moved for `watchdog.timeout_s`: says who waits for whom
    │   └── WorkersDieError         the workers of an operator die again and again, whatever they get
    ├── StageContractError          a stage lost, doubled or changed rows (a bug of ours: nothing is committed)
    └── Interrupted                 the user stopped the run; everything committed stays and the run can be resumed

A program that fails is a value (`ExecutionResult.status`), never an exception.
"""


def first_line(error: BaseException) -> str:
    """What an error of a library says, which may be a page; its type where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class CacoError(Exception):
    """Base of all errors raised on purpose."""


class UserError(CacoError):
    """Something that the user can mend. Shown as one line; the process exits with code 2."""


class ConfigError(UserError):
    """A configuration key or value is wrong; the message names it and says what is allowed."""


class SeedError(UserError):
    """A seed source is unusable; the message names the file, the line or row, and the field."""


class ModelError(UserError):
    """A model cannot be used; the message names the path or endpoint."""


class RunDirError(UserError):
    """The run directory belongs to another config, or holds damaged or foreign files."""


class TransientError(UserError):
    """As shown to the user, but not a mistake of theirs for certain; the process exits with code 75: trying again may help."""


class ClusterError(TransientError):
    """The Ray cluster does not answer or lacks a resource that the run needs."""


class StorageError(TransientError):
    """The storage refused a write (full, read-only, no credentials); nothing half-written is trusted."""


class InfraErrorsError(TransientError):
    """The machinery failed on more rows of a stage than `quarantine.max_infra_error_fraction`; the shard at hand is not committed."""


class SandboxUnavailableError(CacoError):
    """The sandbox cannot give the isolation level that was required, or its machinery failed."""


class EngineError(CacoError):
    """The language-model engine failed; the rows it held are not at fault."""


class EngineUnreachableError(EngineError):
    """An endpoint cannot be reached, or fails whatever it is asked: it may come back, and its requests are to wait for that."""


class StageStalledError(CacoError):
    """A stage makes no progress and is stopped; the message says who waits for whom. Committed shards stay."""


class WorkersDieError(StageStalledError):
    """The workers of an operator die again and again and no row gets through: no row is to blame."""


class StageContractError(CacoError):
    """A stage returned other rows than its contract allows; nothing of the shard is committed."""


class Interrupted(CacoError):
    """The run was stopped by the user; committed shards stay and the same command resumes."""
