# Checks the configuration and makes the table of all planned points.
import atexit
import gc
import os
import shutil
import sys
from contextlib import suppress
from subprocess import CalledProcessError

from snakemake.exceptions import WorkflowError

from slidesparse import program
from slidesparse.errors import SlideSparseError
from slidesparse.files import (
    none_from_the_future,
    refuse_linked_folders,
    refuse_links_out,
    refuse_no_folder,
    remove_linked_logs,
)
from slidesparse.machine import harness
from slidesparse.machine.naming import KEY_PATTERN
from slidesparse.plan import cluster, layers, prompts, stock, tasks
from slidesparse.plan.table import Table, inspected, options
from slidesparse.points import machines, progress, request
from slidesparse.points.stale import Stale
from slidesparse.report.tables.gather import rows_of
from slidesparse.tuning import choices

# Nearly all objects that planning makes stay alive. Looking for garbage among them takes a quarter of its time.
gc.disable()

program.find_own_programs()


# With several GPUs in one machine (--resources gpu=4) there are as many seats. Every engine, and every configuration of
# the kernel stage, has one of them. A seat takes one job at a time and keeps to one GPU, so no engine is loaded on two.
try:
    shell.prefix(program.shell_prefix(os.getpid()))
    refuse_no_folder("results", "resources")
    own = layers.own(workflow.overwrite_configfiles, workflow.config_settings.config)
    config = layers.validated(config, own)
    table = Table(config, gpus=int(getattr(workflow.global_resources.get("gpu"), "value", None) or 1))
    harness.refuse_missing(table.planned_tasks())
    notes = [*table.notes(), *layers.overruled(own, table)]
    notes += machines.others(table.root, table.plans) if workflow.is_main_process else []
except SlideSparseError as error:
    raise WorkflowError(str(error))
workflow.global_resources.update(dict.fromkeys(table.seats, 1))
stale = Stale(table)


wildcard_constraints:
    hardware=KEY_PATTERN,
    stage="kernel|prefill|decode|quality",
    model=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    dtype="INT8|FP8",
    backend="[a-z0-9_]+",
    sparsity=r"dense|2_\d+|2_inf",
    m=prompts.NAME,
    text="[0-9a-f]{16}",
    task=tasks.NAME,


LANGUAGES = config["report"]["languages"]
display = progress.Progress("results", table.plans, LANGUAGES[0])
REPORTS = expand("results/{key}/report.{language}.md", key=table.plans, language=LANGUAGES)


# The command of every measured point. plan.json tells the worker what else it will be asked for. The braces put the
# shell's message about a killed program into the log.
MEASURE = (
    'rm -rf .snakemake/backups/{output}; {{ python3 "$programs"/measure_point.py --output {output} --basis {input.basis} --tuning {input.tuning}'
    " --parameters {params.parameters:q} --peers {params.peers:q} --plan results/{wildcards.hardware}/plan.json"
    " --log {log} --owner $owner --seat {resources.seat}; }} 2> {log}"
)

sys.stderr.writelines(f"{note}\n" for note in notes)


# A call in which nothing is to be done gets no further than its scheduler, and runs nothing of what follows.
@atexit.register
def end_without_jobs():
    if workflow.scheduler and workflow.is_main_process and not workflow.dryrun and not len(workflow.dag):
        display.without_jobs(asked=any(job.rule.name == "write_report" for job in workflow.dag.jobs))


# Runs only in the process that starts jobs, never in a dry run. The kernel frees the lock whatever ends the process.
onstart:
    gc.freeze()
    gc.enable()
    workflow.execution_settings.keep_incomplete = True  # also without our profile, a failing job deletes no point
    try:
        program.refuse_no_room_for_temporary_files()
        program.hold_lock("results/.lock")
        program.tell_end()
        program.remember_stops()
        program.watch_stopped()
        program.end_of_ended_runs()
        refuse_links_out("results", ".snakemake")
        refuse_linked_folders("results")
        remove_linked_logs("results")
        shutil.rmtree(".snakemake/backups", ignore_errors=True)  # of a run that was killed; our outputs are whole
        none_from_the_future("results")
        cluster.cancel_left_over(".")
        if any(job.rule.name != "report" for job in workflow.dag.jobs):  # a report is of the plan that was measured
            table.write_plans()
        display.start(f"{program.scripts()}/show_status.py", log)
    except (SlideSparseError, OSError) as error:
        raise WorkflowError(program.sentence(error))
    except KeyboardInterrupt:
        raise WorkflowError("interrupted before the first job")
