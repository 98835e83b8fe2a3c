"""Configuration files and words of the command line, merged as Snakemake does, and what of them has no effect."""

import pytest

from configured import CPU, RTX4090, overlaid, read
from places import ROOT
from slidesparse.errors import ConfigurationError
from slidesparse.plan import layers
from slidesparse.plan.matrix import validated
from slidesparse.plan.table import Table


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a configuration file and returns its name; the working directory is the project's."""
    monkeypatch.chdir(ROOT)

    def write(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def overruled(files=(), words=(), hardware=CPU):
    content, own = layers.configuration(files, [f"hardware={hardware}", *words])
    return layers.overruled(own, Table(validated(content)))


def test_files_are_laid_over_the_default_in_their_order(written):
    files = ["config/extended.yaml", written("prefill: {M: [512]}\n"), written('{"decode": {"M": [64]}}', "mine.json")]
    content, own = layers.configuration(files, [f"hardware={RTX4090}", "models=[BitNet-tiny]"])
    expected = overlaid(overlaid(read(), read("extended.yaml")), {"prefill": {"M": [512]}, "decode": {"M": [64]}})
    assert content == expected | {"hardware": RTX4090, "models": ["BitNet-tiny"]}
    assert [name for name, _ in own] == [*files, "--config"]


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "- 1\n", "a: [\n"])
def test_a_file_that_is_no_section_is_refused(written, text):
    with pytest.raises(ConfigurationError, match="mine.yaml"):
        layers.configuration([written(text)])


def test_a_word_without_a_name_is_refused(written):
    with pytest.raises(ConfigurationError, match="--config has 'kernel', but needs name=value"):
        layers.configuration(words=["kernel"])


def test_words_are_what_snakemake_makes_of_them():
    words = ["a=1", "b=[1, 2_8]", "c={M: [1.5]}", "d=", "e=x", "f=[", "g=true"]
    _, [(name, content)] = layers.configuration(words=words)
    expected = {"a": 1, "b": ["1", "2_8"], "c": {"M": ["1.5"]}, "d": None, "e": "x", "f": "[", "g": True}
    assert name == "--config" and content == expected


@pytest.mark.parametrize(
    ("first", "second", "words", "sentence"),
    [
        ("prefil: {M: [512]}\n", "prefill: {M: [512]}\n", [], "first.yaml: prefil (with"),
        ("prefill: {M: [512]}\n", "cpu: {prefill: {MM: [3]}}\n", [], "second.yaml: cpu.prefill.MM (with"),
        ("prefill: {M: [0]}\n", "prefill: {M: [512, 0]}\n", [], "second.yaml: prefill.M[1] is"),
        ("dtypes: 8\n", "{}\n", ["dtypes=7"], "--config: dtypes is the number 7"),
        ("dtypes: 8\n", "kernel: {M: [16]}\n", [], "first.yaml: dtypes is the number 8"),
        ("registry: {Mine: {source: local}}\n", "{}\n", [], "first.yaml: registry.Mine.shape is missing"),
        ("models: [BitNet-3B]\n", "model: 1\n", [], "second.yaml: model "),
        ("{28: 1}\n", "{}\n", [], "first.yaml: 28 is not a key"),
        ('kernel: {"M\\n": 1}\n', "kernel: {M: [16]}\n", [], "first.yaml: 'kernel.M"),
        ("measure: {prefill: {min_repeats: 99}}\n", "{}\n", [], "first.yaml: measure.prefill.min_repeats is 99"),
        ("{}\n", "{}\n", [], None),
    ],
)
def test_an_error_begins_with_the_file_that_has_the_key(written, first, second, words, sentence):
    files = [written(first, "first.yaml"), written(second, "second.yaml")]
    content, own = layers.configuration(files, [f"hardware={RTX4090}", *words])
    if not sentence:
        assert layers.validated(content, own) == validated(content)
        return
    with pytest.raises(ConfigurationError) as error:
        layers.validated(content, own)
    assert sentence in str(error.value)


def test_an_error_of_the_default_configuration_names_it(tmp_path, monkeypatch):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("kernl: {M: [16]}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="^config/config.yaml: kernl "):
        layers.validated(layers.configuration()[0], [])


def test_keys_without_effect_on_a_cpu_are_named_together_with_what_counts(written):
    path = written("models: [BitNet-2B]\nprefill: {M: [64]}\ndtypes: [INT8]\n")
    assert overruled([path]) == [
        f"{path}: models, prefill.M without effect on {CPU}, where cpu.models, cpu.prefill.M of config/config.yaml"
        " counts: set that"
    ]
    assert overruled(words=["models=[BitNet-2B]"]) == [
        f"--config: models without effect on {CPU}, where cpu.models of config/config.yaml counts: set that"
    ]


def test_nothing_is_said_where_a_key_has_its_effect(written):
    path = written("models: [BitNet-2B]\nprefill: {M: [64]}\n")
    assert overruled([path], hardware=RTX4090) == []
    own = written("cpu: {models: [BitNet-2B], prefill: {M: [64]}}\n", "own.yaml")
    assert overruled([path, own]) == []
    assert overruled(["config/test/tiny.yaml"]) == []
