# Does sparsity make a BitNet model faster here? models -> checkpoints -> tuning -> points -> CSVs -> report
from snakemake.utils import min_version

min_version("9.20")


include: "workflow/rules/check.smk"


configfile: CONFIGURATION


# For --software-deployment-method apptainer; made with: apptainer build envs/container.sif envs/container.def
container: "envs/container.sif"


include: "workflow/rules/common.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/checkpoints.smk"
include: "workflow/rules/build.smk"
include: "workflow/rules/tuning.smk"
include: "workflow/rules/kernel.smk"
include: "workflow/rules/throughput.smk"
include: "workflow/rules/quality.smk"
include: "workflow/rules/report.smk"


# Every planned point, its CSVs and a report for each hardware.
rule all:
    default_target: True
    input:
        REPORTS,
        f"results/comparison.{LANGUAGES[0]}.md",
        table.planned(),
        table.planned_tasks(),


rule kernel:
    input:
        table.planned("kernel"),


rule prefill:
    input:
        table.planned("prefill"),


rule decode:
    input:
        table.planned("decode"),


rule quality:
    input:
        table.planned("quality"),
        table.planned_tasks(),


include: "workflow/rules/targets.smk"
