# Scores of checkpoints on a text, in the engines that prefill and decode time.


use rule measure_prefill as measure_quality with:
    input:
        basis="results/checkpoints/{model}/{dtype}/{sparsity}.json",
        tuning=inspected(table.tuned),
        dense="results/checkpoints/{model}/{dtype}/dense.json",
        text=inspected(table.text),
        peers=inspected(lambda w: [*table.compared_with(w).values()]),
        stale=stale.point(stage="quality"),
    output:
        update("results/{hardware}/quality/{model}/{dtype}/{backend}/{sparsity}/M{m}.json"),
    log:
        "results/{hardware}/quality/{model}/{dtype}/{backend}/{sparsity}/M{m}.log",
    priority: table.priority_of_quality
    params:
        protocol=request.PROTOCOL["quality"],
        parameters=inspected(lambda w: table.measuring(w.hardware, "quality")),
        peers=inspected(lambda w: options(table.compared_with(w))),


# A task of the lm-evaluation-harness, from the environment quality, in a worker of its own.
rule score_task:
    input:
        basis="results/checkpoints/{model}/{dtype}/{sparsity}.json",
        tuning=inspected(table.tuned),
        stale=stale.task,
    output:
        update("results/{hardware}/quality/{model}/{dtype}/{backend}/{sparsity}/tasks/{task}.json"),
    log:
        "results/{hardware}/quality/{model}/{dtype}/{backend}/{sparsity}/tasks/{task}.log",
    priority: table.priority_of_task
    resources:
        **table.resources(kernel=False),
    params:
        protocol=request.PROTOCOL["task"],
        task=inspected(table.task_parameters),
    shell:
        'rm -rf .snakemake/backups/{output}; {{ python3 "$programs"/score_task.py --output {output} --basis {input.basis}'
        " --tuning {input.tuning} --task {params.task:q} --plan results/{wildcards.hardware}/plan.json --log {log}"
        " --owner $owner --seat {resources.seat}; }} 2> {log}"


rule gather_tasks:
    input:
        table.task_results,
    output:
        update("results/{hardware}/quality/{model}/{dtype}/{backend}/{sparsity}/tasks/{model}-{dtype}_tasks.csv"),
    log:
        "results/{hardware}/quality/{model}/{dtype}/{backend}/{sparsity}/gather_tasks.log",
    localrule: True
    shell:
        'rm -rf .snakemake/backups/{output}; python3 "$programs"/gather_tasks.py --results {input} --output {output}'
        " --owner $owner 2> {log}"
