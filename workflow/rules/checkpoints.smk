# BF16 -> W8A8, dense or pruned and slid. The outputs of the rule are manifests; Snakemake does not track the weights.


rule convert_checkpoint:
    input:
        "results/models/{model}/manifest.json",
    output:
        "results/checkpoints/{model}/{dtype}/{sparsity}.json",
    log:
        "results/checkpoints/{model}/{dtype}/{sparsity}.log",
    benchmark:
        "results/tasks/{model}/{dtype}/{sparsity}/convert_checkpoint.tsv"
    resources:
        **cluster.resources(config),
    shell:
        "python3 workflow/scripts/convert_checkpoint.py --model-manifest {input} --dtype {wildcards.dtype}"
        " --sparsity {wildcards.sparsity} --output {output} --log {log} --owner $owner 2> {log}"
