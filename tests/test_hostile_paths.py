"""Paths, files and folders that data of others names: nothing outside is touched, nothing of the user deleted."""

import json
import os
import shutil
from pathlib import Path

import pytest

import synthetic
from bad_inputs import GENERATED, SHA, SHAPE
from local_hub import Hub, serving
from reports import ROOT, gathered, ours
from slidesparse import files, models, program
from slidesparse.errors import CheckpointError, DownloadError, RecordError, SlideSparseError
from slidesparse.models import checkpoints, generate
from slidesparse.points import records, status, strict
from slidesparse.points.plan import read_plan
from slidesparse.report.tables.export import export
from slidesparse.report.write import write_reports
from slidesparse.tuning.choices import SCHEMA, Choices

REPOSITORY = "owner/bitnet"
CLIMBING = (
    "..",
    "../victim",
    "../../../victim",
    "/tmp/victim",
    "a/../../victim",
    ".hidden",
    "",
    "a\0b",
    "a\nb",
    "a" * 300,
)


def content(root):
    """{path below root: its bytes, or where its link leads}."""
    return {
        path.relative_to(root).as_posix(): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def victim(tmp_path):
    """A folder of the user's, which must be at the end what it was; a link in the attacker's hands leads there."""
    folder = tmp_path / "home" / "victim"
    folder.mkdir(parents=True)
    for name in ("thesis.txt", "figure.svg", "figure.png", "table.csv", "M99.log", "model.safetensors"):
        (folder / name).write_text(f"my {name}")
    before = content(folder)
    yield folder
    assert content(folder) == before


@pytest.mark.parametrize("name", [*CLIMBING, None, 7, "\ud800", "\u202egnp.exe"])
def test_a_name_in_data_never_leads_out_of_its_folder(tmp_path, name):
    with pytest.raises(RecordError, match="is no plain name of a file"):
        files.inside(tmp_path, "a", name)
    assert files.inside(tmp_path, "a", "BitNet-2B.json") == tmp_path / "a" / "BitNet-2B.json"


# Models.


def hub_entry(**change):
    return {"source": "hub", "repository": REPOSITORY, "revision": "main", "shape": SHAPE} | change


class HubOf:
    """A folder of resources and a hub with a small model."""

    def __init__(self, directory, patch):
        self.root, self.hub, self.patch = directory / "resources", Hub(), patch
        generate.generate(files.Path(directory), 1, SHAPE)
        names = (
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "model.safetensors",
        )
        self.files = {name: (directory / name).read_bytes() for name in names}
        self.commit = self.hub.add(REPOSITORY, self.files)

    def fetch(self, **change):
        from huggingface_hub import constants

        with serving(self.hub) as address:
            self.patch.setattr(constants, "ENDPOINT", address)
            template = address + "/{repo_id}/resolve/{revision}/{filename}"
            self.patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            return models.fetch("ours", hub_entry(**change), self.root, self.root / "models.lock.json")


@pytest.fixture
def at_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    (tmp_path / "made").mkdir()
    return HubOf(tmp_path / "made", monkeypatch)


NO_COMMITS = ("../../../../home/victim", "main", "A" * 40, "0" * 39, "0" * 40 + "\n", "", None, 7, ["0" * 40])


@pytest.mark.parametrize("commit", NO_COMMITS)
def test_a_manifest_names_a_commit_or_nothing_is_done(at_hub, victim, commit):
    manifest = at_hub.fetch()
    manifest["source"]["revision"] = commit
    before = content(at_hub.root)
    with pytest.raises(CheckpointError, match="no 40 hexadecimal digits"):
        models.ensure(manifest, at_hub.root)
    assert content(at_hub.root) == before


@pytest.mark.parametrize("commit", NO_COMMITS)
def test_a_hub_names_a_commit_or_nothing_is_fetched(at_hub, victim, commit):
    at_hub.hub.repositories[REPOSITORY]["main"] = (commit, at_hub.files)
    with pytest.raises(DownloadError, match="no 40 hexadecimal digits"):
        at_hub.fetch()
    assert not list(at_hub.root.rglob("*.safetensors"))


@pytest.mark.parametrize("commit", NO_COMMITS)
def test_a_lock_file_names_a_commit_or_nothing_is_fetched(at_hub, victim, commit):
    at_hub.fetch()
    lock = at_hub.root / "models.lock.json"
    table = json.loads(lock.read_text())
    table["ours"]["commit"] = commit
    lock.write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match="no 40 hexadecimal digits"):
        at_hub.fetch()


def test_a_cache_names_a_commit_or_nothing_is_taken(at_hub, victim, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "hf" / "hub" / "models--owner--bitnet"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("snapshot-of-mine")
    shutil.copytree(tmp_path / "made", folder / "snapshots" / "snapshot-of-mine")
    with pytest.raises(SlideSparseError, match="no 40 hexadecimal digits|no snapshot"):
        at_hub.fetch()


def forged(root, **change):
    """The manifest of a small generated model under `root` after `change`."""
    return models.fetch("tiny", GENERATED, root) | change


@pytest.mark.parametrize("name", CLIMBING)
def test_no_name_of_a_manifest_becomes_a_path_outside(tmp_path, victim, name):
    manifest = forged(tmp_path / "resources")
    for bad in (manifest | {"model": name}, manifest | {"files": {name: {"size": 1, "sha256": SHA}}}):
        with pytest.raises(CheckpointError):
            models.ensure(bad, tmp_path / "resources")
    made = checkpoints.convert(manifest, "INT8", "2_8", tmp_path / "resources", progress=False)
    for key in ("model", "dtype", "sparsity"):
        with pytest.raises(CheckpointError):
            checkpoints.ensure(made | {key: name}, tmp_path / "resources")


def test_a_forged_manifest_deletes_no_model_that_is_as_it_was_made(tmp_path):
    root = tmp_path / "resources"
    manifest = forged(root)
    before = content(root)
    manifest["files"]["model.safetensors"]["sha256"] = SHA
    with pytest.raises(CheckpointError, match="is not what the manifest of model tiny says"):
        models.ensure(manifest, root)
    assert content(root) == before


def test_a_model_of_the_users_is_not_replaced(tmp_path, at_hub):
    mine = at_hub.root / "models" / "ours"
    shutil.copytree(tmp_path / "made", mine)
    (mine / "config.json").write_text("{}")
    (mine / "thesis.txt").write_text("mine")
    before = content(mine)
    with pytest.raises(CheckpointError, match="did not make it|is not what"):
        at_hub.fetch()
    assert content(mine) == before


def test_a_checkpoint_that_this_program_did_not_make_is_not_replaced(tmp_path, victim):
    root = tmp_path / "resources"
    manifest = forged(root)
    mine = root / "checkpoints" / "tiny" / "INT8" / "2_8"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="was not made by this program"):
        checkpoints.convert(manifest, "INT8", "2_8", root, progress=False)
    assert (mine / "thesis.txt").read_text() == "mine"
    shutil.rmtree(mine)
    mine.symlink_to(victim)
    with pytest.raises(CheckpointError, match="was not made by this program"):
        checkpoints.convert(manifest, "INT8", "2_8", root, progress=False)


PLACES = ["", "ours", "ours/partial", "ours/partial/{commit}", "ours/replaced", "ours/lock", ".lock"]
PLACES += [f"ours/partial/{{commit}}/{name}" for name in ("config.json.part", "model.safetensors.part", "config.json")]


@pytest.mark.parametrize("place", PLACES)
def test_links_where_a_download_lies_lead_nowhere(at_hub, victim, place):
    link = at_hub.root / "models" / ".fetch" / place.format(commit=at_hub.commit)
    link.parent.mkdir(parents=True)
    link.symlink_to(victim / "thesis.txt" if "." in place or "lock" in place else victim)
    if place.endswith("lock"):
        with pytest.raises(CheckpointError, match="cannot be read or written"):
            at_hub.fetch()
    else:
        at_hub.fetch()
        assert models.ensure(at_hub.fetch(), at_hub.root) == at_hub.root / "models" / "ours"


def test_a_hard_link_where_a_download_lies_is_not_written_through(at_hub, victim):
    place = at_hub.root / "models" / ".fetch" / "ours" / "partial" / at_hub.commit / "config.json.part"
    place.parent.mkdir(parents=True)
    os.link(victim / "thesis.txt", place)
    at_hub.fetch()


@pytest.mark.parametrize("place", ["tiny", "tiny/INT8"])
def test_checkpoints_are_not_written_through_links(tmp_path, victim, place):
    root = tmp_path / "resources"
    manifest = forged(root)
    link = root / "checkpoints" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    with pytest.raises(CheckpointError, match="is a link out of"):
        checkpoints.convert(manifest, "INT8", "2_8", root, progress=False)


def test_a_pipe_where_a_download_lies_is_taken_away(at_hub):
    pipe = at_hub.root / "models" / ".fetch" / "ours" / "partial" / at_hub.commit / "config.json.part"
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    at_hub.fetch()


def test_only_files_of_the_manifest_become_a_checkpoint(tmp_path):
    folder = tmp_path / "local"
    folder.mkdir()
    generate.generate(folder, 1, SHAPE)
    manifest = models.fetch("mine", {"source": "local", "path": str(folder), "shape": SHAPE}, tmp_path / "resources")
    del manifest["files"]["tokenizer.json"]
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/dev/zero")
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    made = checkpoints.convert(manifest, "INT8", "dense", tmp_path / "resources", progress=False)
    assert "tokenizer.json" not in made["files"]


# Results.


def test_a_plan_names_no_path_outside(tmp_path):
    for name in ("../../../etc/x/y", "BitNet/INT8/../../..", "/etc/a/b/c", "a\n/INT8/x/y"):
        plan = {"points": {"prefill": {name: [1]}}, "parameters": {}}
        folder = tmp_path / synthetic.HARDWARE
        folder.mkdir(exist_ok=True)
        (folder / "plan.json").write_text(json.dumps(plan))
        with pytest.raises(RecordError):
            read_plan(tmp_path, synthetic.HARDWARE)
        with pytest.raises(RecordError):
            status.screen(tmp_path)
    (folder / "plan.json").write_text(json.dumps({"points": {}, "shapes": {"a": "../../victim"}}))
    with pytest.raises(RecordError):
        read_plan(tmp_path, synthetic.HARDWARE)


def test_choices_name_no_table_outside(tmp_path):
    place = tmp_path / "tuning" / "auto"
    place.mkdir(parents=True)
    outside = tmp_path / "secret.json"
    outside.write_text("{}")
    for table in ("../../secret.json", str(outside)):
        entry = {"M": 1, "N": 1, "K": 1, "backend": "cublaslt", "algorithm": None}
        made = {"schema": SCHEMA, "entries": [entry], "tables": {"cublaslt": table}}
        (place / "2_8.json").write_text(json.dumps(made | {"made_from": {table: files.sha256_file(outside)}}))
        with pytest.raises(RecordError, match="leads out of"):
            Choices(place / "2_8.json")


TIDY = """# GPU: NVIDIA H100
gpu,cc,stage,dtype,model,backend,sparsity,M,prompt_len,output_len,max_num_seqs,num_prompts,requests_per_s,tokens_per_s,elapsed_s,steps,ms_per_step,total_tokens,source
RTX4090,89,prefill,INT8,{model},{backend},dense,512,512,1,1,128,10,5120,12,128,94,65536,x
"""


@pytest.mark.parametrize("names", [{"model": "../../../home/victim/figure"}, {"backend": "../../../home/victim"}])
def test_a_table_of_others_names_no_file_outside(tmp_path, victim, names):
    source = tmp_path / "work" / "source"
    folder = source / "tidy" / synthetic.HARDWARE
    folder.mkdir(parents=True)
    (folder / "throughput.csv").write_text(TIDY.format(**({"model": "BitNet", "backend": "cublaslt"} | names)))
    before = {path for path in tmp_path.rglob("*") if source not in path.parents}
    write_reports(tmp_path / "work" / "results", [source])
    made = {path for path in tmp_path.rglob("*") if source not in path.parents} - before
    assert made
    assert all(tmp_path / "work" / "results" in [path, *path.parents] for path in made)
    with pytest.raises(RecordError, match="is no plain name"):
        export(source, synthetic.HARDWARE, tmp_path / "work" / "exported")


def test_a_report_is_not_written_through_links(tmp_path, victim):
    root = ours(tmp_path / "results")
    key = root / synthetic.HARDWARE
    (key / "report").symlink_to(victim)
    with pytest.raises(RecordError, match="is a link"):
        write_reports(root, [root])
    (key / "report").unlink()
    (key / "report").mkdir()
    for name in ("figure.svg", "results_BitNet-2B_throughput.svg", "results_tasks.csv"):
        (key / "report" / name).symlink_to(victim / "figure.svg")
    with pytest.raises(RecordError, match="was not made by this program"):
        write_reports(root, [root])
    (key / "report" / "figure.svg").unlink()
    write_reports(root, [root])
    assert not (key / "report" / "results_tasks.csv").is_symlink()


def test_nothing_is_gathered_through_links(tmp_path, victim):
    root = ours(tmp_path / "results")
    folder = gathered(root).parent
    moved = tmp_path / "home" / "points"
    folder.rename(moved)
    gathered_before = content(moved)
    folder.symlink_to(moved)
    (moved / "M512.json").unlink()
    del gathered_before["M512.json"]
    (refused,) = write_reports(root, [root])
    assert "by a link" in refused
    assert content(moved) == gathered_before
    folder.unlink()
    (root / "H100_cc90_py312_cu130_x86_64").symlink_to(tmp_path / "home")
    synthetic.write(tmp_path / "home" / "..", "prefill", [1], place={"hardware": "home"})
    assert any("is a link out of" in sentence for sentence in write_reports(root, [root]))
    assert not list((tmp_path / "home").glob("report*"))


def test_a_report_deletes_nothing_that_it_did_not_make(tmp_path):
    root = ours(tmp_path / "results")
    folder = root / synthetic.HARDWARE / "report"
    folder.mkdir()
    (folder / "holiday.png").write_bytes(b"mine")
    with pytest.raises(RecordError, match=r"holiday\.png was not made by this program"):
        write_reports(root, [root])
    assert (folder / "holiday.png").read_bytes() == b"mine"


def test_links_that_lead_out_of_the_results_are_named_before_anything_is_written(tmp_path, victim):
    root = ours(tmp_path / "results")
    files.refuse_links_out(root, tmp_path / "absent")
    (root / "inner").symlink_to(root / synthetic.HARDWARE)
    files.refuse_links_out(root)
    (root / "M1.log").symlink_to(victim / "M99.log")
    with pytest.raises(RecordError, match="leads out of"):
        files.refuse_links_out(root)
    (root / "M1.log").unlink()
    os.mkfifo(root / "M1.log")
    with pytest.raises(RecordError, match="neither a file nor a folder"):
        files.refuse_links_out(root)


def test_the_lock_of_a_run_does_not_empty_what_a_link_leads_to(tmp_path, victim):
    (tmp_path / "run.lock").symlink_to(victim / "thesis.txt")
    with pytest.raises(SlideSparseError, match="cannot be locked"):
        program.hold_lock(tmp_path / "run.lock")


def test_files_from_the_future_are_not_set_back_through_links(tmp_path, victim):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "link").symlink_to(victim / "thesis.txt")
    os.utime(victim / "thesis.txt", (4e9, 4e9))
    files.none_from_the_future(tmp_path / "results")
    assert (victim / "thesis.txt").stat().st_mtime == 4e9


SECRET = "hf_SECRETSECRET"


def test_a_report_tells_nothing_of_a_file_that_a_link_leads_to(tmp_path):
    token, keys = tmp_path / "token", tmp_path / "keys.json"
    token.write_text(f"{SECRET}\n")
    keys.write_text(json.dumps({"schema": 1, "reason": SECRET, "source": {"kind": "local", "path": SECRET}}))
    root = ours(tmp_path / "results")
    places = {
        f"benchmark_kernel/cuBLASLt/alg_search_results/{synthetic.HARDWARE}/INT8/alg_search_B-INT8.csv": token,
        f"tidy/{synthetic.HARDWARE}/throughput.csv": token,
        f"{synthetic.HARDWARE}/prefill/m/INT8/cublaslt/dense/m-INT8_prefill.csv": token,
        f"{synthetic.HARDWARE}/prefill/m/INT8/cublaslt/dense/M7.json": keys,
        f"{synthetic.HARDWARE}/tuning/m/INT8/cublaslt/dense.csv": token,
        f"{synthetic.HARDWARE}/plan.json": keys,
        "models/BitNet-2B/shape.json": keys,
        "models/BitNet-2B/manifest.json": keys,
        "checkpoints/BitNet-2B/INT8/dense.json": keys,
        f"{synthetic.HARDWARE}/prefill/BitNet-2B/INT8/cublaslt/dense/M9.failed.json": keys,
    }
    for place, target in places.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).symlink_to(target)
    refused = write_reports(root, [root])
    assert len(refused) >= 4
    assert SECRET not in "".join(refused)
    assert not any(SECRET in path.read_text(errors="replace") for path in root.rglob("report*") if path.is_file())


@pytest.mark.parametrize("pid", ["self/cwd/evil", "1", "a\0b", None, [1], 1.5, True, 10**18])
def test_a_failure_names_a_process_or_nothing_is_read(tmp_path, pid):
    point = synthetic.path(tmp_path, "prefill", 512)
    failure = {"reason": "x", "unless": {"host": records.host(), "started": "1", "pid": pid}}
    files.write_json(records.failure_of(point), failure)
    assert records.in_flight(failure) is False


ODD = {
    "a number beyond all": '"seconds": 1e300',
    "a huge number": f'"seconds": {"9" * 400}',
    "infinity": '"seconds": 1e999',
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_point_ends_no_report(tmp_path, case):
    root = ours(tmp_path / "results")
    (bad,) = synthetic.write(root, "prefill", [2048])
    bad.write_text(bad.read_text().replace('"seconds": 2.5', ODD[case]))
    assert any(str(bad) in sentence for sentence in write_reports(root, [root]))


@pytest.mark.parametrize("text", ["\ud800", "1e30", [1], {"a": 1}])
def test_a_point_of_which_no_row_can_be_made_ends_no_report(tmp_path, text):
    root = ours(tmp_path / "results")
    (bad,) = synthetic.write(root, "prefill", [2048])
    point = json.loads(bad.read_text())
    point["results"]["variants"] = text
    bad.write_text(json.dumps(point))
    assert any(str(bad) in sentence for sentence in write_reports(root, [root]))


def test_a_published_header_is_no_program(tmp_path):
    root = tmp_path / "published"
    shutil.copytree(ROOT / "resources" / "published", root)
    path = next(root.rglob("alg_search_*.csv"))
    text = path.read_text()
    for evil in ("[" + "[]," * 100_000 + "]", "+".join("1" * 100_000), "[" + "-" * 100_000 + "1]", "[1e999]"):
        path.write_text(text.replace("# NK_list: ", f"# NK_list: {evil}", 1))
        refused = write_reports(tmp_path / "results", [root], hardware=synthetic.HARDWARE)
        assert any(str(path) in sentence for sentence in refused)


def test_a_name_that_files_cannot_have_ends_no_report(tmp_path):
    root = ours(tmp_path / "results")
    (root / synthetic.HARDWARE / "prefill" / ("a" * 240) / "INT8" / "cublaslt" / "dense").mkdir(parents=True)
    (refused,) = write_reports(root, [root])
    assert "does not belong there" in refused


def test_the_status_counts_no_nonsense(tmp_path):
    root = ours(tmp_path / "results")
    (root / "tasks").mkdir()
    (root / "tasks" / "a.tsv").write_text("s\tx\nnan\t1\n")
    point = synthetic.path(root, "prefill", 512)
    key = {"prefill": {"BitNet-2B/INT8/cublaslt/dense": [512]}}
    files.write_json(root / synthetic.HARDWARE / "plan.json", {"points": key})
    for seconds in ('"nan"', '"inf"', "1e308", "-1e300"):
        point.write_text(f'{{"run": {{"seconds": {seconds}}}, "status": "ok"}}')
        assert "is damaged" in status.screen(root)
    files.write_json(root / synthetic.HARDWARE / "plan.json", {"points": {"prefill": {"a/b/c/d": [1] * 300_000}}})
    with pytest.raises(RecordError, match="is no plan"):
        status.screen(root)


# What is no file.


@pytest.fixture(params=["pipe", "link to a pipe", "device", "endless file", "folder"])
def no_file(request, tmp_path):
    """Makes something at a path that never ends when it is read."""

    def make(path):
        path.unlink(missing_ok=True)
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "link to a pipe":
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to(tmp_path / "pipe")
        elif request.param == "device":
            path.symlink_to("/dev/zero")
        elif request.param == "folder":
            path.mkdir()
        else:
            with open(path, "wb") as stream:
                stream.truncate(files.READ_LIMIT + 1)

    return make


def test_reports_name_what_is_no_file_and_go_on(tmp_path, no_file):
    root = ours(tmp_path / "results")
    other = synthetic.path(root, "prefill", 99)
    no_file(other)
    refused = write_reports(root, [root])
    assert any(str(other) in sentence for sentence in refused)
    assert "BitNet-2B" in (root / synthetic.HARDWARE / "report.en.md").read_text()


@pytest.mark.parametrize(
    "read",
    [files.read_json, strict.read_json, files.read_text, strict.read_text],
    ids=["json", "strict json", "text", "strict text"],
)
def test_what_is_no_file_is_not_read(tmp_path, no_file, read):
    no_file(tmp_path / "x.json")
    with pytest.raises((SlideSparseError, OSError)):
        read(tmp_path / "x.json")


def test_what_is_no_file_is_not_hashed(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        files.sha256_file(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[" * 100_000, "nests deeper"),
        ('{"a": ' * 70 + "1" + "}" * 70, "nests deeper"),
        ('{"a": 1, "a": 2}', "a name twice"),
        ("1" * 5000, "5000 digits"),
        ('{"a": ' + "1" * 5000 + "}", "5000 digits"),
        ('{"a": 1e999}', "beyond all numbers"),
        ('{"a": NaN}', "is no number"),
        ('{"a": "\\ud800"}', "half a character"),
    ],
    ids=["brackets", "objects", "twice", "digits", "digits inside", "infinity", "no number", "surrogate"],
)
def test_json_that_is_a_trap_is_one_sentence(tmp_path, text, cause):
    (tmp_path / "x.json").write_text(text)
    for read in (files.read_json, strict.read_json):
        with pytest.raises(SlideSparseError, match=cause) as error:
            read(tmp_path / "x.json")
        assert "\n" not in str(error.value)


def test_library_reads_files_of_others_in_one_way_only():
    """Bare reads are left only where the file is the program's own, the system's, or has been checked before."""
    import ast

    own = {"files.py", "machine/hardware.py", "worker/resident.py", "worker/devices.py", "tuning/table.py"}
    own |= {"gemm/build.py", "gemm/library.py", "plan/schema.py", "points/validate.py"}
    own |= {"report/document/render.py", "report/document/languages/__init__.py"}
    root = Path(files.__file__).parent
    found = set()
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            reads = name.endswith((".read_text", ".read_bytes", "json.load")) or name == "open"
            writes = name == "open" and len(node.args) > 1 and ast.unparse(node.args[1]) in ("'wb'", "'ab'")
            if reads and not writes and not name.startswith("files."):
                found.add(f"{path.relative_to(root).as_posix()}: {ast.unparse(node)}")
    left = {line for line in found if line.partition(":")[0] not in own}
    assert left == {
        "models/store.py: open(item, 'rb')",
        "program.py: Path(f'/proc/{int(pid)}/stat').read_text()",
        "report/document/drawing.py: note.read_text()",
        "report/tables/gather.py: path.read_bytes()",
    }, left
