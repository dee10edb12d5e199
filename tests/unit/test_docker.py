"""The images, as far as they can be checked without a daemon: pinned bases, locked installs, no root, and nothing copied that is not sent."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ("cpu", "gpu")


def steps(image: str) -> list[tuple[str, str]]:
    """(instruction, arguments), with continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / f"docker/Dockerfile.{image}").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def sent() -> list[str]:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    return [line[1:] for line in lines if line.startswith("!")]


def locked(image: str) -> dict[str, str]:
    lines = (ROOT / f"docker/{image}.lock").read_text().splitlines()
    return dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))


@pytest.mark.parametrize("image", IMAGES)
def test_bases_are_pinned(image: str) -> None:
    for base in (args.split()[0] for name, args in steps(image) if name == "FROM"):
        assert re.search(r":\d+\.\d+\.\d+(-|$)", base), f"{base}: Ray and the preflight compare patch versions too"


@pytest.mark.parametrize("image", IMAGES)
def test_only_locked_packages_are_installed(image: str) -> None:
    runs = " && ".join(args for name, args in steps(image) if name == "RUN")
    installs = [part for part in runs.split("&&") if "pip install" in part]
    assert installs and all("--no-deps" in part and "--no-cache-dir" in part for part in installs)
    assert f"docker/{image}.lock" in runs
    assert all("--no-install-recommends" in part for part in runs.split("&&") if "apt-get install" in part)


@pytest.mark.parametrize("image", IMAGES)
def test_runs_as_the_user_of_the_pods(image: str) -> None:
    users = [args for name, args in steps(image) if name == "USER"]
    assert users == ["1000"]
    names = [name for name, _ in steps(image)]
    assert "RUN" not in names[names.index("USER") :]


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_exists_and_is_sent(image: str) -> None:
    copied = [path for name, args in steps(image) if name == "COPY" and "--from" not in args for path in args.split()[:-1]]
    assert copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(fnmatch(path, pattern) for pattern in sent()), path


def test_images_agree() -> None:
    assert locked("cpu")["ray"] == locked("gpu")["ray"]
    pythons = {base for image in IMAGES for name, base in steps(image) if name == "FROM" and base.startswith("python:")}
    assert len(pythons) == 1


def pip_installs(text: str, pip: str) -> set[str]:
    """What is given to pip, as a shell in the image would see it."""
    found = re.findall(re.escape(pip) + r" +(.*?)(?= *(?:\|\||&&|;|>|$))", text, re.MULTILINE)
    return {
        re.sub(r'\$\(TORCH_INDEX\)|"\$TORCH_INDEX"', "TORCH_INDEX", each.replace("$<", "docker/cpu.lock").replace("$$", "$"))
        for each in found
    }


def test_image_and_venv_are_made_alike() -> None:
    """The Makefile's set-up, which all tests run in, is the image's but for where torch comes from first."""
    makefile = (ROOT / "Makefile").read_text()
    image = " && ".join(args for name, args in steps("cpu") if name == "RUN")
    assert "PIP := $(BIN)/python -m pip install --no-deps\n" in makefile
    ours, theirs = pip_installs(makefile, "$(PIP)"), pip_installs(image, "pip install --no-cache-dir --no-deps")
    assert len(theirs) == 3 and theirs < ours
    assert ours - theirs == {"\"$(grep '^torch==' docker/cpu.lock)\""}
    index = re.search(r"TORCH_INDEX \?= (\S+)", makefile)
    assert index and ("ARG", f"TORCH_INDEX={index[1]}") in steps("cpu")


def test_kernels_are_built_for_gpus() -> None:
    """A build sees no GPU: DeepSpeed would take the CPU for its accelerator, and compile again where it runs."""
    (build,) = [args for name, args in steps("gpu") if name == "RUN" and "--no-binary deepspeed" in args]
    assert re.search(r"DS_ACCELERATOR=cuda (\w+=1 )*DS_BUILD_FUSED_ADAM=1", build)
    assert "CPU_ADAM" not in build and "DS_BUILD_OPS" not in build  # made for the machine that builds


def test_cuda_is_that_of_torch() -> None:
    (cuda,) = [re.search(r"cuda:(\d+\.\d+)", args).group(1) for name, args in steps("gpu") if name == "FROM" and "cuda" in args]
    assert locked("gpu")["nvidia-cuda-runtime"].startswith(cuda + ".")


def test_no_secret_can_enter() -> None:
    assert sent() == ["pyproject.toml", "README.md", "LICENSE", "caco_ray", "conf", "jobs", "docker/*.lock"]
    for image in IMAGES:
        assert not re.search(r"TOKEN|PASSWORD|SECRET", (ROOT / f"docker/Dockerfile.{image}").read_text())
