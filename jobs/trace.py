"""The whole history of one row: python jobs/trace.py run=/abs/path/of/run row_id=0123456789abcdef0123456789abcdef"""

from caco_ray.cli import guarded, parse_arguments


def main() -> None:
    from caco_ray.ledger.trace import TraceConfig, print_history, trace
    from caco_ray.progress import make_console
    from caco_ray.store import Folder

    arguments = parse_arguments(TraceConfig)
    run = Folder(arguments.run)
    print_history(make_console(), run, trace(run, arguments.row_id))


if __name__ == "__main__":
    guarded(main)
