"""Write the report of a run again: python jobs/report.py run=/abs/path/of/run [samples=10]"""

from pydantic import Field

from caco_ray.cli import guarded, parse_arguments
from caco_ray.config import Strict


class ReportArguments(Strict):
    """The folder of the run, and how many shipped rows to show."""

    run: str = Field(min_length=1)
    samples: int = Field(10, ge=0)


def main() -> None:
    from caco_ray.ledger.lineage import read_config
    from caco_ray.progress import make_console
    from caco_ray.report import print_table, write_report
    from caco_ray.store import Folder

    arguments = parse_arguments(ReportArguments)
    folder = Folder(arguments.run)
    print_table(make_console(), write_report(folder, read_config(folder), arguments.samples))


if __name__ == "__main__":
    guarded(main)
