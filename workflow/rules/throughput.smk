# Engine points: steps of vLLM with exactly M tokens (prefill) or sequences (decode).


rule measure_prefill:
    input:
        basis="results/checkpoints/{model}/{dtype}/{sparsity}.json",
        tuning=inspected(table.tuned),
        stale=stale.point(stage="prefill"),
    output:
        update("results/{hardware}/prefill/{model}/{dtype}/{backend}/{sparsity}/M{m}.json"),
    log:
        "results/{hardware}/prefill/{model}/{dtype}/{backend}/{sparsity}/M{m}.log",
    wildcard_constraints:
        backend=f"(?!{stock.BACKEND}/)[a-z0-9_]+",
    priority: table.priority
    resources:
        **table.resources(kernel=False),
    params:
        protocol=request.PROTOCOL["prefill"],
        parameters=inspected(lambda w: table.measuring(w.hardware, "prefill", w.m)),
        peers=[],
    shell:
        MEASURE


use rule measure_prefill as measure_decode with:
    input:
        basis="results/checkpoints/{model}/{dtype}/{sparsity}.json",
        tuning=inspected(table.tuned),
        stale=stale.point(stage="decode"),
    output:
        update("results/{hardware}/decode/{model}/{dtype}/{backend}/{sparsity}/M{m}.json"),
    log:
        "results/{hardware}/decode/{model}/{dtype}/{backend}/{sparsity}/M{m}.log",
    params:
        protocol=request.PROTOCOL["decode"],
        parameters=inspected(lambda w: table.measuring(w.hardware, "decode")),
        peers=[],


# One variant of stock vLLM. It needs no tuning and loads only dense checkpoints.
rule measure_stock:
    input:
        basis="results/checkpoints/{model}/{dtype}/{sparsity}.json",
        tuning=[],
        stale=stale.point(),
    output:
        update("results/{hardware}/{stage}/{model}/{dtype}/{backend}/{sparsity}/M{m}.json"),
    log:
        "results/{hardware}/{stage}/{model}/{dtype}/{backend}/{sparsity}/M{m}.log",
    wildcard_constraints:
        stage="prefill|decode",
        backend="|".join(stock.VARIANTS),
        sparsity="dense",
    priority: table.priority
    resources:
        **table.resources(kernel=False),
    params:
        protocol=inspected(lambda w: request.PROTOCOL[w.stage]),
        parameters=inspected(lambda w: table.measuring(w.hardware, w.stage, w.m)),
        peers=[],
    shell:
        MEASURE


# The point of stock vLLM is the point of its fastest variant.
rule choose_stock:
    input:
        variants=table.variants,
        basis="results/checkpoints/{model}/{dtype}/dense.json",
        stale=stale.point(backend=stock.BACKEND, sparsity="dense"),
    output:
        update(f"results/{{hardware}}/{{stage}}/{{model}}/{{dtype}}/{stock.BACKEND}/dense/M{{m}}.json"),
    log:
        f"results/{{hardware}}/{{stage}}/{{model}}/{{dtype}}/{stock.BACKEND}/dense/M{{m}}.log",
    wildcard_constraints:
        stage="prefill|decode",
    priority: table.first
    localrule: True
    params:
        protocol=inspected(lambda w: request.PROTOCOL[w.stage]),
        parameters=inspected(lambda w: table.measuring(w.hardware, w.stage, w.m)),
    shell:
        'rm -rf .snakemake/backups/{output}; python3 "$programs"/choose_stock.py --output {output} --basis {input.basis}'
        " --parameters {params.parameters:q} --log {log} --owner $owner 2> {log}"
