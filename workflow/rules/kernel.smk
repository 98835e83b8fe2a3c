# GEMM points: the four linears of a model on one backend, dense or slid, at one M.


rule measure_kernel:
    input:
        basis="results/models/{model}/shape.json",
        tuning="results/{hardware}/tuning/{model}/{dtype}/{backend}/{sparsity}.json",
        peers=lambda w: [table for table in peers(w).values() if table],
    output:
        "results/{hardware}/kernel/{model}/{dtype}/{backend}/{sparsity}/M{m}.json",
    log:
        "results/{hardware}/kernel/{model}/{dtype}/{backend}/{sparsity}/M{m}.log",
    priority: lambda w: len(ROWS) + 1 + (w.sparsity == "dense")  # before sparse ones, which leave their mark on a process
    resources:
        **resources(kernel=True),
    params:
        protocol=lambda w: records.version(w.hardware, "kernel", w.sparsity),
        peers=lambda w: options(peers(w)),
        parameters=lambda w: measuring(w.hardware, "kernel"),
    shell:
        MEASURE
