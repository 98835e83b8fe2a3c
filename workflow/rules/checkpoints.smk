# BF16 -> W8A8, dense or pruned and slid. The outputs of the rule are manifests; Snakemake does not track the weights.


rule convert_checkpoint:
    input:
        "results/models/{model}/manifest.json",
    output:
        "results/checkpoints/{model}/{dtype}/{sparsity}.json",
    log:
        "results/checkpoints/{model}/{dtype}/{sparsity}.log",
    priority: lambda w: table.first * (w.sparsity == "dense")  # what quality points of patterns wait for
    resources:
        **cluster.resources(config),
    params:
        took="results/tasks/{model}/{dtype}/{sparsity}/convert_checkpoint.tsv",
    shell:
        'python3 "$programs"/convert_checkpoint.py --model-manifest {input} --dtype {wildcards.dtype}'
        " --sparsity {wildcards.sparsity} --output {output} --took {params.took} --log {log} --owner $owner 2> {log}"
