# The fastest algorithm of every backend for every linear and M.


rule tune_backend:
    input:
        "results/models/{model}/shape.json",
    output:
        json="results/{hardware}/tuning/{model}/{dtype}/{backend}/{sparsity}.json",
        csv="results/{hardware}/tuning/{model}/{dtype}/{backend}/{sparsity}.csv",
    log:
        "results/{hardware}/tuning/{model}/{dtype}/{backend}/{sparsity}.log",
    benchmark:
        "results/{hardware}/tuning/{model}/{dtype}/{backend}/{sparsity}.tsv"
    resources:
        **resources(kernel=True),
    params:
        protocol=records.PROTOCOL["tune"],
        M=lambda w: configuration.planned(config, w.hardware)["tune"]["M"],
        parameters=lambda w: measuring(w.hardware, "tune"),
    shell:
        "python3 workflow/scripts/tune_backend.py --output {output.json} --basis {input} --M {params.M}"
        " --parameters {params.parameters:q} --plan results/{wildcards.hardware}/plan.json --owner $PPID"
        " --seat {resources.seat} 2> {log}"
