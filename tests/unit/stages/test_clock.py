"""Programs that read the clock are told from those that calculate with dates and times."""

import pytest

from caco_ray.seeds.builtin import builtin_seeds
from caco_ray.stages.clock import reads_clock
from caco_ray.stages.program import parse


def reads(code: str) -> bool:
    tree = parse(code)
    assert tree is not None
    return reads_clock(tree)


@pytest.mark.parametrize(
    "code",
    [
        "from datetime import date\noutput = date.today().year - 1990",
        "import datetime\noutput = datetime.date.today().year",
        "import datetime as dt\noutput = dt.datetime.now(dt.timezone.utc).hour",
        "from datetime import datetime as d\noutput = d.utcnow().day",
        "import time\noutput = int(time.time()) // 86400",
        "def solve(a):\n    import time as t\n    return a + t.time_ns()\noutput = solve(1)",
        "import time\nclock = time.perf_counter\noutput = clock()",
        "from time import time\noutput = time()",
        "from time import monotonic as m, sleep\noutput = m()",
        "from time import *\noutput = process_time()",
        "import time\noutput = time.localtime().tm_year",
        "import time\noutput = time.gmtime()[0]",
        "from time import ctime\noutput = ctime()",
        'import time\noutput = time.strftime("%Y")',
        'import numpy as np\noutput = str(np.datetime64("today"))',
        'from numpy import datetime64\noutput = str(datetime64("now", "D"))',
        "import os\noutput = os.times().elapsed",
        "import os as system\noutput = system.times()[4]",
        "from os import times as t\noutput = t()[4]",
    ],
)
def test_the_clock_is_read(code: str) -> None:
    assert reads(code)


@pytest.mark.parametrize(
    "code",
    [
        "from datetime import datetime\noutput = str(datetime(2024, 5, 1, 8, 30).time())",
        "import datetime\noutput = datetime.time(8, 30).hour",
        "from datetime import time, timedelta\noutput = time(8, 30).hour",
        'input = {"time": 3, "now": 4, "today": 5}\ntime = input["time"]\nnow = time + 1\noutput = now * input["today"]',
        'import numpy as np\noutput = str(np.datetime64("2024-05-01"))',
        'import os\ntimes = 3\noutput = os.sep * times + str(len("now"))',
        "def times(a):\n    return a\noutput = times(3)",
        "def time(a):\n    return a\noutput = time(3)",
        "class Trip:\n    def now(self):\n        return 3\noutput = Trip().now()",
        "class Trip:\n    time = 3\noutput = Trip().time",
        "import time\ntime.sleep(0)\noutput = time.gmtime(86400).tm_mday",
        'import time\noutput = time.strftime("%Y", time.gmtime(0))',
        "from time import time\noutput = 3",
        "from datetime import date\noutput = (date(2024, 3, 1) - date(2024, 2, 1)).days",
    ],
)
def test_the_clock_is_not_read(code: str) -> None:
    assert not reads(code)


def test_no_builtin_program_reads_it() -> None:
    assert not [seed["source_id"] for split in ("train", "heldout") for seed in builtin_seeds(split) if reads(seed["code"])]
