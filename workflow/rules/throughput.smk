# Engine points: prefill and decode steps of exactly M tokens or sequences, in vLLM.


rule measure_prefill:
    input:
        basis="results/checkpoints/{model}/{dtype}/{sparsity}.json",
        tuning="results/{hardware}/tuning/{model}/{dtype}/{backend}/{sparsity}.json",
    output:
        "results/{hardware}/prefill/{model}/{dtype}/{backend}/{sparsity}/M{m}.json",
    log:
        "results/{hardware}/prefill/{model}/{dtype}/{backend}/{sparsity}/M{m}.log",
    priority: engine_priority
    resources:
        **resources(kernel=False),
    params:
        protocol=records.PROTOCOL["prefill"],
        parameters=lambda w: measuring(w.hardware, "prefill"),
        peers=[],
    shell:
        MEASURE


rule measure_decode:
    input:
        basis="results/checkpoints/{model}/{dtype}/{sparsity}.json",
        tuning="results/{hardware}/tuning/{model}/{dtype}/{backend}/{sparsity}.json",
    output:
        "results/{hardware}/decode/{model}/{dtype}/{backend}/{sparsity}/M{m}.json",
    log:
        "results/{hardware}/decode/{model}/{dtype}/{backend}/{sparsity}/M{m}.log",
    priority: engine_priority
    resources:
        **resources(kernel=False),
    params:
        protocol=records.PROTOCOL["decode"],
        parameters=lambda w: measuring(w.hardware, "decode"),
        peers=[],
    shell:
        MEASURE
