# GEMM points. Each has the four linears of a model on one backend, dense or slid, at one M.


rule measure_kernel:
    input:
        basis="results/models/{model}/shape.json",
        tuning="results/{hardware}/tuning/{model}/{dtype}/{backend}/{sparsity}.json",
        peers=inspected(lambda w: [path for path in table.peers(w).values() if path]),
        stale=stale.point(stage="kernel"),
    output:
        update("results/{hardware}/kernel/{model}/{dtype}/{backend}/{sparsity}/M{m}.json"),
    log:
        "results/{hardware}/kernel/{model}/{dtype}/{backend}/{sparsity}/M{m}.log",
    priority: lambda w: table.first + (w.sparsity == "dense")  # dense first, in a process without sparse products
    resources:
        **table.resources(kernel=True),
    params:
        protocol=inspected(lambda w: request.rerun_when(w.hardware, "kernel", w.sparsity)),
        peers=inspected(lambda w: options(table.peers(w))),
        parameters=inspected(lambda w: table.measuring(w.hardware, "kernel")),
    shell:
        MEASURE
