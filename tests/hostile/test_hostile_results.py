"""Results of others: plans, choices, tables, points and links among them touch, delete and tell nothing outside."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

import synthetic
from hostile import content
from places import ROOT
from reports import gathered, ours
from slidesparse import files, program
from slidesparse.errors import RecordError, SlideSparseError
from slidesparse.plan.key import Configuration
from slidesparse.points import records, status
from slidesparse.points.plan import read_plan
from slidesparse.report.sections import checks
from slidesparse.report.sources import measured
from slidesparse.report.sources.rows import Source
from slidesparse.report.tables.export import export, numbered
from slidesparse.report.write import write_reports
from slidesparse.tuning.choices import SCHEMA, Choices


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
    for wrong in ({"shapes": {"a": "../../victim"}}, {"acceptable": -1}, {"acceptable": "much"}, {"acceptable": []}):
        (folder / "plan.json").write_text(json.dumps({"points": {}, **wrong}))
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


TIDY = """# GPU: NVIDIA GeForce RTX 4090
gpu,cc,stage,dtype,model,backend,sparsity,M,prompt_len,output_len,max_num_seqs,num_prompts,requests_per_s,tokens_per_s,elapsed_s,steps,ms_per_step,total_tokens,source
RTX4090,89,prefill,INT8,{model},{backend},dense,512,512,1,1,128,10,5130,12.8,128,100,65664,x
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
    with pytest.raises(RecordError, match="is no plain name" if "model" in names else "holds no results"):
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
    files.refuse_linked_folders(root)
    folder = root / synthetic.HARDWARE / "prefill"
    (folder / "linked").symlink_to(folder / "BitNet-2B")
    with pytest.raises(RecordError, match="linked is a link to a folder, whose points would have two names"):
        files.refuse_linked_folders(root)
    (folder / "linked").unlink()
    (root / "M1.log").symlink_to(victim / "M99.log")
    with pytest.raises(RecordError, match="leads out of"):
        files.refuse_links_out(root)
    (root / "M1.log").unlink()
    os.mkfifo(root / "M1.log")
    with pytest.raises(RecordError, match="neither a file nor a folder"):
        files.refuse_links_out(root)


@pytest.mark.parametrize("what", ["file", "loop", "dangling link", "pipe"])
def test_what_is_no_folder_in_place_of_the_results_is_named(tmp_path, what):
    root = tmp_path / "results"
    files.refuse_no_folder(root)
    {
        "file": root.touch,
        "loop": lambda: root.symlink_to(root),
        "dangling link": lambda: root.symlink_to(tmp_path / "nowhere"),
        "pipe": lambda: os.mkfifo(root),
    }[what]()
    with pytest.raises(RecordError, match="results is no folder, nor a link to one: remove it"):
        files.refuse_no_folder(root)
    root.unlink()
    root.symlink_to(tmp_path)
    files.refuse_no_folder(root)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_log_that_is_a_link_goes_before_a_job_empties_it(tmp_path, link):
    point, log, own = tmp_path / "M32.json", tmp_path / "M16.log", tmp_path / "M32.log"
    point.write_text("a finished point")
    own.write_text("a log")
    link(point, log)
    files.remove_linked_logs(tmp_path)
    assert not os.path.lexists(log)
    assert (point.read_text(), own.read_text()) == ("a finished point", "a log")


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


def test_a_damaged_plan_hides_no_other(tmp_path):
    root = ours(tmp_path / "results")
    files.write_json(root / synthetic.HARDWARE / "plan.json", {"points": {"prefill": {"a/b/c/d": [1]}}})
    for name, text in (
        ("A100_cc80_py312_cu130_x86_64", "{"),
        ("L40_cc89_py312_cu130_x86_64", '{"points": {"x": {"..": [1]}}}'),
    ):
        (root / name).mkdir()
        (root / name / "plan.json").write_text(text)
    said = status.screen(root)
    assert f"{synthetic.HARDWARE}: 0 of 1 points are there" in said
    assert "A100_cc80_py312_cu130_x86_64: " in said and "L40_cc89_py312_cu130_x86_64: " in said


def test_deep_folders_and_long_cells_end_no_status(tmp_path):
    root = ours(tmp_path / "results")
    files.write_json(root / synthetic.HARDWARE / "plan.json", {"points": {}})
    place = root / "tasks" / "m"
    place.mkdir(parents=True)
    (place / "fetch_model.tsv").write_text("s\th\n" + "1" * 140_000 + "\t1\n")
    assert status.screen(root)
    Path(root, "tasks", *["d"] * 40).mkdir(parents=True)
    assert status.screen(root)
    for look in (files.refuse_links_out, files.none_from_the_future):
        with pytest.raises(RecordError, match="nests deeper than 32 folders"):
            look(root)


def test_many_rows_take_no_square_of_time(tmp_path):
    """A bound on work, not a speed: with a scan of the table for each M this would take minutes."""
    root = ours(tmp_path / "results")
    (path,) = (root / synthetic.HARDWARE / "kernel").glob("*/*/cublaslt/dense/*.csv")
    head, first, *_ = path.read_text().splitlines()
    path.write_text("\n".join([head, *(f"{M}{first[first.index(',') :]}" for M in range(1, 20_001)), ""]))
    begun = time.process_time()
    measured.read_configuration(path, synthetic.HARDWARE, "kernel", Configuration("a", "INT8", "cublaslt", "dense"))
    assert time.process_time() - begun < 60


def test_a_plan_of_many_configurations_takes_no_square_of_time(tmp_path):
    """A bound on work, not a speed: with a scan of all configurations for each this would take minutes."""
    names = {f"m{i}/INT8/cublaslt/dense": [64] for i in range(20_000)}
    files.write_json(tmp_path / synthetic.HARDWARE / "plan.json", {"points": {"prefill": names}})
    source = Source(str(tmp_path))
    measured.read(source, synthetic.HARDWARE)
    begun = time.process_time()
    assert checks.check_blocks(source)
    assert time.process_time() - begun < 60


@pytest.mark.parametrize("stored", ["²", "--5", "1:²", "1:--2", "9" * 5000, "-", ":"], ids=lambda text: text[:5])
def test_an_odd_algorithm_ends_no_export(stored):
    assert numbered(stored, True).keys() == {"id", "split"}


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
