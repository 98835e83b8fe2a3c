"""Configurations of others: no text of theirs is a command, and no file of theirs a trap or a program."""

import json
import os
import shlex
import subprocess
import sys
import time

import pytest
import yaml

from bad_inputs import GENERATED
from places import ROOT
from slidesparse.errors import ConfigurationError
from slidesparse.machine import hardware
from slidesparse.models import generate
from slidesparse.plan import cluster
from slidesparse.plan import schema as configuration_schema
from slidesparse.plan import text as configuration_text
from slidesparse.plan.matrix import validated
from workflow_clone import Clone

META = [
    "; touch PWNED #",
    "$(touch PWNED)",
    "`touch PWNED`",
    "| touch PWNED",
    "&& touch PWNED",
    "> PWNED",
    "x\ntouch PWNED",
]
META += [
    "' ; touch PWNED ; '",
    '" ; touch PWNED ; "',
    "{output}",
    "{{}}",
    "$HOME",
    "*",
    "~",
    "\\",
    "!x",
    "--help",
    "a b",
]

H100 = "H100_cc90_py312_cu130_x86_64"


def texts(schema, definitions, path=()):
    """(path, schema) of every value of the configuration that may be text."""
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    kinds = schema.get("type", [])
    if "string" in ([kinds] if isinstance(kinds, str) else kinds) or "enum" in schema:
        yield path
    for key, inner in schema.get("properties", {}).items():
        yield from texts(inner, definitions, (*path, key))
    for pattern, inner in schema.get("patternProperties", {}).items():
        yield from texts(inner, definitions, (*path, H100 if "_cc" in pattern else "Mine"))
    if "items" in schema:
        yield from texts(schema["items"], definitions, (*path, 0))


SCHEMA = yaml.safe_load(configuration_schema.SCHEMA.read_text())
TEXTS = sorted(set(texts(SCHEMA, SCHEMA["$defs"])), key=str)

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 1}
MODEL = {"source": "local", "path": "x", "repository": "a/b", "revision": "main", "seed": 1}
MODEL |= {"shape": SHAPE | {"num_key_value_heads": 1, "vocab_size": 300}}


def configured(path, text):
    """A configuration with `text` at a path, and all else that this needs."""
    value = text
    for key in reversed(path):
        value = [value] if key == 0 else {key: value}
    if path[:2] == ("registry", "Mine"):
        kind = "local" if path[2] == "path" else "hub"
        value["registry"]["Mine"] = MODEL | {"source": kind} | value["registry"]["Mine"]
    if path == ("hardware",) or path == ("hardware", 0):
        return value
    return {"hardware": H100} | value


def test_every_text_of_the_schema_is_found():
    assert len(TEXTS) > 30
    for path in (("cluster", "gpu", "constraint"), ("cluster", "hardware", H100, "options"), ("report", "sources", 0)):
        assert path in TEXTS
    assert ("registry", "Mine", "path") in TEXTS


def words_of(text):
    """What a shell makes of a text."""
    command = ["sh", "-c", f"for word in {text}; do printf '%s\\0' \"$word\"; done"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: ".".join(map(str, path)))
def test_no_text_of_a_configuration_is_a_command(path, tmp_path, monkeypatch):
    """It is refused in one sentence, or reaches a shell as one word that says what the configuration says."""
    monkeypatch.chdir(tmp_path)
    for text in META:
        try:
            config = validated(configured(path, text))
        except ConfigurationError as error:
            assert "\n" not in str(error)
            continue
        for key in (H100, None):
            asked = cluster.resources(config, key)["sbatch"]
            assert words_of(asked) == shlex.split(asked)
            assert all(word.startswith("--") for word in words_of(asked))
            assert not {word.partition("=")[0] for word in words_of(asked)} & {"--wrap", "--output", "--help"}
        if path[-1] == "constraint" and key == H100:
            assert f"--constraint={text}" in words_of(asked)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--exclusive", ["--exclusive"]),
        (["--exclusive", "--gres=tmp:1 --mem-per-gpu=3G"], ["--exclusive", "--gres=tmp:1", "--mem-per-gpu=3G"]),
        ("'--constraint=a b' --hint=nomultithread", ["--constraint=a b", "--hint=nomultithread"]),
        (["--nodelist=$(touch${IFS}PWNED)"], ["--nodelist=$(touch${IFS}PWNED)"]),
    ],
)
def test_options_of_a_cluster_are_words(options, words):
    config = validated({"cluster": {"gpu": {"options": options}}})
    assert words_of(cluster.resources(config, H100)["sbatch"])[1:] == words


@pytest.mark.parametrize(
    "options",
    ["--wrap=reboot", "--output=x", "--error=x", "--export=ALL,LD_PRELOAD=x", "--chdir=/", "--out=x", "-o x", "job.sh"]
    + ["--uid=0", "--exclusive; reboot", "'--exclusive", "--get-user-env", "--job-name=x", "--exclusive reboot"],
)
def test_options_that_do_more_than_say_what_a_job_needs_are_refused(options):
    for value in (options, [options]):
        with pytest.raises(ConfigurationError, match=r"cluster\.gpu\.options"):
            validated({"cluster": {"gpu": {"options": value}}})


@pytest.mark.workflow
def test_no_text_of_a_configuration_is_a_command_for_snakemake(tmp_path):
    """A hostile text is refused at most places, and a dry run with it at another plans; nothing of the text is run."""
    clone = Clone.of_working_tree(tmp_path / "clone")
    text = "a'; touch PWNED; \"$(touch PWNED)`touch PWNED` {output} | touch PWNED > PWNED &"

    def begun(path):
        return path, clone.start("kernel", "--dry-run", "--quiet", config=yaml.safe_dump(configured(path, text)))

    free = [path for path in TEXTS if path[-1] in ("constraint", "path", "text")]
    refused = [path for path in TEXTS if path not in free]
    for path in refused:
        with pytest.raises(ConfigurationError):
            validated(configured(path, text))
    asked = [*free, *refused[::8]]
    for i in range(0, len(asked), 2):
        for path, call in [begun(path) for path in asked[i : i + 2]]:
            call.wait(0 if path in free else 1)
            assert "Traceback" not in call.output
    assert not list(clone.directory.rglob("PWNED*"))


@pytest.mark.workflow
def test_the_path_of_a_model_is_one_word_for_its_program(tmp_path):
    clone = Clone.of_working_tree(tmp_path / "clone")
    place = tmp_path / "a'; touch PWNED; \"$(touch PWNED)`touch PWNED` {output} | touch PWNED > PWNED &"
    place.mkdir()
    generate.generate(place, 1, GENERATED["shape"])
    entry = {"source": "local", "path": str(place), "shape": GENERATED["shape"]}
    clone.run("results/models/Mine/manifest.json", config=yaml.safe_dump({"registry": {"Mine": entry}}))
    manifest = json.loads((clone.directory / "results" / "models" / "Mine" / "manifest.json").read_text())
    assert manifest["source"]["path"] == str(place)
    assert not list(clone.directory.rglob("PWNED*")) and not list(tmp_path.glob("PWNED*"))


STANDIN = """#!{python}
import json, subprocess, sys
with open("{journal}", "a") as journal:
    journal.write(json.dumps(sys.argv[1:]) + "\\n")
subprocess.run(["sh", sys.argv[-1]], check=True, stdout=subprocess.DEVNULL)
print(1)
"""


@pytest.mark.workflow
def test_hostile_texts_reach_sbatch_and_programs_as_they_are(tmp_path):
    clone = Clone.of_working_tree(tmp_path / "clone")
    clone.pretend({"": [["NVIDIA H100 PCIe", [9, 0], "GPU-00"]]})
    key = f"H100_cc90_py{sys.version_info.major}{sys.version_info.minor}_cu130_{os.uname().machine}"
    journal = clone.beside / "journal"
    sbatch = clone.standin / "sbatch"
    sbatch.write_text(STANDIN.format(python=sys.executable, journal=journal))
    status = clone.standin / "squeue"
    status.write_text("#!/bin/sh\ncase $* in *--jobs=*) echo COMPLETED ;; esac\n")
    for program in (sbatch, status):
        program.chmod(0o755)
    clone.variables["PATH"] = f"{clone.standin}{os.pathsep}{os.environ['PATH']}"
    constraint = "a'; touch PWNED; \"$(touch PWNED)`touch PWNED` {output} | x > PWNED &"
    gres = "--gres=$(touch${IFS}PWNED):1"
    config = {
        "hardware": key,
        "models": ["BitNet-tiny"],
        "dtypes": ["INT8"],
        "kernel": {"M": [16], "sparsity": ["2_4"]},
        "tune": {"M": [64]},
        "cluster": {"gpu": {"constraint": constraint, "options": [shlex.quote(gres)]}},
        "report": {"sources": ["results"], "languages": ["en"]},
    }
    profile = ["--workflow-profile", "profiles/slurm", "--latency-wait", "5", "--seconds-between-status-checks", "1"]
    try:
        clone.start("kernel", *profile, config=yaml.safe_dump(config)).wait()
    finally:
        clone.stop()
    calls = [json.loads(line) for line in journal.read_text().splitlines()]
    ours = [call for call in calls if f"--constraint={constraint}" in call]
    assert ours and all(gres in call for call in ours)
    assert len(clone.points("kernel")) == 2
    assert not list(clone.directory.rglob("PWNED")) and not list(clone.directory.rglob("touch*"))


def expanded(levels, form):
    lines = [f"a0: &a0 {form.format('x', 'y')}"]
    lines += [f"a{i}: &a{i} {form.format(f'*a{i - 1}', f'*a{i - 1}')}" for i in range(1, levels)]
    return "\n".join(lines)


TRAPS = {
    "a key twice": ("dtypes: [INT8]\ndtypes: [FP8]", "line 2 names 'dtypes' a second time"),
    "a key twice inside": ("kernel:\n  M: [1]\n  'M': [2]", "line 3 names 'M' a second time"),
    "a key twice in a flow": ("kernel: {M: [1], M: [2]}", "a second time"),
    "a key twice in JSON": ('{"dtypes": ["INT8"], "dtypes": ["FP8"]}', "a name twice"),
    "aliases of lists": (expanded(40, "[{}, {}]"), "with its aliases written out"),
    "aliases of mappings": (expanded(40, "{{p: {}, q: {}}}"), "with its aliases written out"),
    "an alias of itself": ("a: &a [*a]", "is not complete"),
    "a long number": (f"kernel: {{M: [{'1' * 5000}]}}", "a number of 5000 digits"),
    "a long number in JSON": (f'{{"kernel": {{"M": [{"1" * 5000}]}}}}', "5000 digits"),
    "a long number to the base 60": ("a: 1" + ":1" * 3000, "digits"),
    "lists in lists": ("dtypes: " + "[" * 3000 + "]" * 3000, "nests deeper"),
    "blocks in blocks": ("\n".join(" " * i + "a:" for i in range(500)), "nests deeper"),
    "lists in lists in JSON": ('{"dtypes": ' + "[" * 3000 + "]" * 3000 + "}", "nests deeper"),
    "a program": ('__use_yte__: true\n?__import__("os").system("touch PWNED"): 1', "run as a program"),
    "a program in other letters": ('"\\x5f_use_yte__": true', "run as a program"),
    "a program that is merged in": ("a: &a {__use_yte__: true}\n<<: *a", "run as a program"),
    "an object": ("a: !!python/name:os.system", "has the tag"),
    "a tag of somebody's": ("a: !Ref b", "has the tag"),
    "a date that is none": ("a: 2001-13-45", "a value cannot be read"),
    "a word for a boolean": ("a: !!bool x", "a value cannot be read"),
    "a word for a number": ("a: !!int abc", "a value cannot be read"),
    "a long number with a tag": (f'a: !!int "{"1" * 5000}"', "5000 digits"),
    "a long number to the base 60 with a tag": ('a: !!int "1' + ":1" * 3000 + '"', "digits"),
    "two documents": ("a: 1\n---\nb: 2", "second document"),
    "a list for a key": ("? [a, b]\n: c", "a key that is no text"),
    "no YAML": ("a: [", "is not valid YAML"),
    "a tab": ("a:\n\tb: 1", "is not valid YAML"),
    "a huge file": ("#" * (1 << 21), "larger than"),
    "no text": (b"\xff\xfe\x00", "is not UTF-8"),
}


@pytest.mark.parametrize("case", TRAPS)
def test_a_trap_is_one_sentence_and_no_time(case, tmp_path):
    content, cause = TRAPS[case]
    path = tmp_path / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    begun = time.process_time()
    with pytest.raises(ConfigurationError, match=cause) as error:
        configuration_text.check_file(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert time.process_time() - begun < 30  # a bound on work, not a speed: one of them would take for ever


@pytest.mark.parametrize(
    "config",
    [
        {"kernel": {"M": [1] * 90_001}},
        {"kernel": {"M": [*range(1, 60_001), 1]}},
        {"kernel": {"M": [10**298]}},
        {"kernel": {"sparsity": ["2_" + "1" * 5000 + "2"]}},
        {"kernel": {"sparsity": ["2_" + "1" * 5000]}},
        {"kernel": {"sparsity": ["2_100000000"]}},
        {"hardware": "H100_cc" + "9" * 5000 + "_py312_cu130_x86_64"},
        {"models": ["B" * 300_000]},
        {"hardware": [f"GPU{i}_cc90_py312_cu130_x86_64" for i in range(300)]},
        {"measure": {"prefill": {"time_limit_s": 1e300}}},
        {
            "registry": {
                "Mine": MODEL | {"source": "generated", "shape": MODEL["shape"] | {"num_hidden_layers": 10**11}}
            }
        },
        {"x" * 1_000_000: "\x1b"},
    ],
    ids=lambda config: "/".join(map(str, config))[:40],
)
def test_a_huge_value_is_one_short_sentence(config):
    begun = time.process_time()
    with pytest.raises(ConfigurationError) as error:
        validated(config)
    assert "\n" not in str(error.value) and len(str(error.value)) < 2500
    assert time.process_time() - begun < 30  # a bound on work, not a speed


def test_a_pipe_is_no_configuration(tmp_path):
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(ConfigurationError, match="no regular file"):
        configuration_text.check_file(tmp_path / "config.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "config").rglob("*.yaml")), ids=lambda path: path.name)
def test_our_own_configurations_are_no_traps(path):
    configuration_text.check_file(path)


def test_aliases_and_merging_stay_possible():
    configuration_text.check_text("a: &a {M: [1, 2]}\nkernel: *a\ndecode: {<<: *a, sparsity: ['2_8']}\n", "x")
    configuration_text.check_text('{"a": 1.5e3, "b": [1, 2], "c": "__use_yte__"}', "x")


@pytest.mark.parametrize("arguments", [["--configfile", "{}"], ["--configfile={}"], ["--configfiles", "ok.yaml", "{}"]])
@pytest.mark.parametrize("profile", ["default", "slurm", "generic"])
@pytest.mark.workflow
def test_a_configuration_is_looked_at_before_snakemake_reads_it(tmp_path, arguments, profile):
    clone = Clone.of_working_tree(tmp_path / "clone")
    (clone.directory / "ok.yaml").write_text("dtypes: [INT8]\n")
    for case in ("a program", "aliases of mappings", "a long number", "lists in lists"):
        (clone.directory / "evil.yaml").write_text(TRAPS[case][0])
        options = [argument.format("evil.yaml") for argument in arguments]
        call = clone.start("--dry-run", *options, "--workflow-profile", f"profiles/{profile}").wait(1)
        assert "Traceback" not in call.output
        assert "snakemake: the configuration evil.yaml cannot be used: " in call.output
        assert not (clone.directory / "PWNED").exists()


@pytest.mark.workflow
def test_the_configuration_of_a_checkout_is_looked_at_too(tmp_path):
    clone = Clone.of_working_tree(tmp_path / "clone")
    for case in ("a program", "aliases of mappings", "a key twice"):
        (clone.directory / "config" / "config.yaml").write_text(TRAPS[case][0])
        call = clone.start("--dry-run").wait(1)
        assert "the configuration config/config.yaml cannot be used: " in call.output
        assert not (clone.directory / "PWNED").exists()


@pytest.mark.workflow
def test_snakemake_writes_no_log_through_a_link(tmp_path):
    clone = Clone.of_working_tree(tmp_path / "clone")
    victim = tmp_path / "victim"
    victim.mkdir()
    (clone.directory / ".snakemake").mkdir()
    (clone.directory / ".snakemake" / "log").symlink_to(victim)
    call = clone.start("--dry-run").wait(1)
    assert "snakemake: .snakemake/log is a link that leads out of .snakemake: remove it" in call.output
    assert not list(victim.iterdir())


@pytest.mark.workflow
def test_nothing_runs_where_results_lead_out(tmp_path):
    clone = Clone.of_working_tree(tmp_path / "clone")
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    place = clone.directory / "results" / hardware.key() / "kernel"
    place.mkdir(parents=True)
    (place / "M16.log").symlink_to(victim)
    call = clone.run("report", status=1)
    assert "M16.log is a link that leads out of results: remove it" in call.output
    assert victim.read_text() == "mine"
