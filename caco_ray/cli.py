"""How every job starts and ends: Hydra composes, the tree is validated once, and any mistake of the user is one line and exit code 2.

Exit code 75: what failed may pass (`TransientError`), so that whoever started the job may start it again.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from caco_ray.config import Config, Model, Strict, load_config, validate
from caco_ray.errors import CacoError, ConfigError, Interrupted, TransientError, UserError

CONF = Path(__file__).resolve().parent.parent / "conf"
EXIT_USER_ERROR = 2
EXIT_TRANSIENT = 75
EXIT_INTERRUPTED = 130

Validated = TypeVar("Validated", bound=Strict)


def run_job(job: Callable[[Config], int | None]) -> NoReturn:
    """Compose the config from the command line, run `job` with it, and exit: 0, what `job` returns, 2, 75 (see above) or 130 (Ctrl-C)."""
    run_composed("config", load_config, job)


def run_composed(name: str, load: Callable[[dict[str, Any]], Validated], job: Callable[[Validated], int | None]) -> NoReturn:
    """As `run_job`, with the tree of `conf/<name>.yaml` validated by `load`."""
    guarded(lambda: _composed(name, load, job))


def guarded(action: Callable[[], int | None]) -> NoReturn:
    """Run `action` and exit with its code; errors of ours become one line on stderr. `--help` shows the job's docstring instead."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print((sys.modules["__main__"].__doc__ or "").strip())
        sys.exit(0)
    try:
        sys.exit(action() or 0)
    except (HydraException, OmegaConfBaseException) as error:
        _fail(ConfigError(" ".join(str(error).split())), EXIT_USER_ERROR)
    except TransientError as error:
        _fail(error, EXIT_TRANSIENT)
    except UserError as error:
        _fail(error, EXIT_USER_ERROR)
    except (KeyboardInterrupt, Interrupted):
        print("\nStopped. What is committed stays; the same command goes on from there.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except CacoError as error:
        _fail(error, 1)


def parse_arguments(model: type[Model]) -> Model:
    """`key=value` arguments of a job without a Hydra tree, validated.

    Raises:
        ConfigError: an argument is not `key=value`, or is refused by the model.
    """
    for argument in sys.argv[1:]:
        if "=" not in argument:
            raise ConfigError(f"{argument}: arguments are key=value; keys: {', '.join(model.model_fields)}")
    return validate(model, OmegaConf.to_container(OmegaConf.from_dotlist(sys.argv[1:])))  # type: ignore[arg-type]


def _composed(name: str, load: Callable[[dict[str, Any]], Validated], job: Callable[[Validated], int | None]) -> int | None:
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors through to `guarded`: Hydra's own report is many lines
    first = [argument for argument in sys.argv[1:] if argument in ("-m", "--multirun")]  # Hydra takes it in front of the overrides only
    sys.argv[1:] = first + [allow_new_key(argument) for argument in sys.argv[1:] if argument not in first]
    trees: list[DictConfig] = []
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(trees.append)()
    codes = [job(load(resolved(tree))) for tree in trees]  # one, or the points of a `--multirun`
    return next((code for code in codes if code), None)


def allow_new_key(argument: str) -> str:
    """`a.b=1` as Hydra's `++a.b=1`: keys with defaults in `config/` need not stand in `conf/`, and unknown ones are refused there."""
    return f"++{argument}" if re.match(r"[a-z_]+(\.\w+)+=", argument) else argument


def resolved(tree: DictConfig) -> dict[str, Any]:
    """A composed tree as plain containers.

    Raises:
        ConfigError: a value is missing.
    """
    missing = sorted(OmegaConf.missing_keys(tree))
    if missing:
        raise ConfigError(f"{missing[0]}: a value is needed; give {missing[0]}=VALUE")
    return OmegaConf.to_container(tree, resolve=True)  # type: ignore[return-value]


def _fail(error: Exception, code: int) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)
