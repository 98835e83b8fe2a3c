# Finds the fastest algorithm of each backend for every linear and M, and for `auto` the fastest backend.


rule tune_backend:
    input:
        shape="results/models/{model}/shape.json",
        stale=stale.tuned,
    output:
        json=update("results/{hardware}/tuning/{model}/{dtype}/{backend}/{sparsity}.json"),
        csv=update("results/{hardware}/tuning/{model}/{dtype}/{backend}/{sparsity}.csv"),
    log:
        "results/{hardware}/tuning/{model}/{dtype}/{backend}/{sparsity}.log",
    wildcard_constraints:
        backend="(?!auto/)[a-z0-9_]+",
    priority: lambda w: table.first * (w.sparsity == "dense")  # as of conversions
    resources:
        **table.resources(kernel=True),
    params:
        took="results/{hardware}/tuning/{model}/{dtype}/{backend}/{sparsity}.tsv",
        protocol=request.PROTOCOL["tune"],
        M=lambda w: table.plan(w.hardware)["tune"]["M"],
        parameters=lambda w: table.measuring(w.hardware, "tune"),
    shell:
        "rm -rf .snakemake/backups/{output.json} .snakemake/backups/{output.csv};"
        ' python3 "$programs"/tune_backend.py --output {output.json} --basis {input.shape} --M {params.M}'
        " --parameters {params.parameters:q} --plan results/{wildcards.hardware}/plan.json --log {log} --owner $owner"
        " --seat {resources.seat} --took {params.took} 2> {log}"


# Engine points of the backend `auto` take these choices in place of a tuning table.
rule choose_kernels:
    input:
        points=table.compared,
        tables=lambda w: [path for path in table.auto_backends(w).values() if path],
        stale=stale.chosen,
    output:
        update("results/{hardware}/tuning/{model}/{dtype}/auto/{sparsity}.json"),
    log:
        "results/{hardware}/tuning/{model}/{dtype}/auto/{sparsity}.log",
    localrule: True
    params:
        took="results/{hardware}/tuning/{model}/{dtype}/auto/{sparsity}.tsv",
        schema=choices.SCHEMA,
        points=table.compared,
        candidates=lambda w: options(table.auto_backends(w)),
        parameters=lambda w: table.measuring(w.hardware, "kernel"),
    shell:
        'rm -rf .snakemake/backups/{output}; python3 "$programs"/choose_kernels.py --output {output} --points {input.points}'
        " --candidates {params.candidates:q} --parameters {params.parameters:q} --log {log} --owner $owner"
        " --took {params.took} 2> {log}"
