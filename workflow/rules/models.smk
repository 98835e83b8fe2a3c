# The models' shapes, their BF16 weights from a hub, a local directory or a seed, and a text of a hub.


rule describe_model:
    input:
        stale=stale.shape,
    output:
        update("results/models/{model}/shape.json"),
    log:
        "results/models/{model}/shape.log",
    localrule: True
    params:
        entry=lambda w: table.dimensions(w.model),
    shell:
        'rm -rf .snakemake/backups/{output}; python3 "$programs"/describe_model.py --model {wildcards.model} --entry {params.entry:q}'
        " --output {output} --owner $owner 2> {log}"


rule fetch_model:
    input:
        stale=stale.model,
    output:
        update("results/models/{model}/manifest.json"),
    log:
        "results/models/{model}/manifest.log",
    localrule: True
    params:
        took="results/tasks/{model}/fetch_model.tsv",
        entry=lambda w: table.entry(w.model),
    shell:
        'rm -rf .snakemake/backups/{output}; python3 "$programs"/fetch_model.py --model {wildcards.model} --entry {params.entry:q}'
        " --output {output} --took {params.took} --log {log} --owner $owner 2> {log}"


rule fetch_text:
    output:
        update("results/texts/{text}.json"),
    log:
        "results/texts/{text}.log",
    localrule: True
    params:
        name=table.text_named,
    shell:
        'rm -rf .snakemake/backups/{output}; python3 "$programs"/fetch_text.py --text {params.name:q}'
        " --output {output} --log {log} --owner $owner 2> {log}"
