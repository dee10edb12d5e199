"""One job per point of a sweep, on a Ray cluster or on Kubernetes, and what they made side by side:

python jobs/submit.py profile=gpu8 sweep='sampling.temperature=0.7,0.9 scale.samples=1e5,1e6' run.dir=/shared/BASE [key=value ...]
    target=ray [address=http://HEAD:8265] [wait=false] [parallel=2] [retries=1]
    target=k8s [k8s=RENDERED.yaml] [manifests=FOLDER] [apply=true]

The same command again submits nothing twice: it waits for what runs, counts what succeeded, and submits again what failed.
Exit code 0 only if every point succeeded.
"""

import sys

from caco_ray.cli import guarded


def main() -> int:
    from caco_ray.progress import make_console
    from caco_ray.sweep import expand, parse_options, submit_sweep

    options, overrides = parse_options(sys.argv[1:])
    return submit_sweep(options, expand(options.sweep, overrides), make_console())


if __name__ == "__main__":
    guarded(main)
