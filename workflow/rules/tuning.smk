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
    params:
        protocol=records.PROTOCOL["tune"],
        M=lambda w: PLANS[w.hardware]["tune"]["M"],
        parameters=lambda w: PARAMETERS[w.hardware]["tune"],
    resources:
        gpu=1,
    shell:
        "{PYTHON} workflow/scripts/tune_backend.py --output {output.json} --basis {input} --M {params.M}"
        " --parameters {params.parameters:q} --owner $PPID --idle {config[resident][idle_s]} 2> {log}"
