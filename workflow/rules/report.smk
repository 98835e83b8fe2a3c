# CSVs from points, reports from CSVs.


rule gather_points:
    input:
        lambda w: POINTS[(w.hardware, w.stage, w.model, w.dtype, w.backend, w.sparsity)],
    output:
        "results/{hardware}/{stage}/{model}/{dtype}/{backend}/{sparsity}/{model}-{dtype}_{stage}.csv",
    log:
        "results/{hardware}/{stage}/{model}/{dtype}/{backend}/{sparsity}/gather.log",
    params:
        parameters=lambda w: measuring(w.hardware, w.stage),
    shell:
        "python3 workflow/scripts/gather_points.py --points {input} --parameters {params.parameters:q}"
        " --output {output} --owner $PPID 2> {log}"


rule write_report:
    input:
        lambda w: [TABLE.format(*key) for key in POINTS if key[0] == w.hardware],
    output:
        "results/{hardware}/report.md",
        "results/{hardware}/tasks.csv",
    log:
        "results/{hardware}/report.log",
    params:
        sources=config["report"]["sources"],
        left_out=lambda w: LEFT_OUT[w.hardware],
    shell:
        "python3 workflow/scripts/write_reports.py --hardware {wildcards.hardware} --sources {params.sources}"
        " --owner $PPID 2> {log}"


# Whatever there is, of every hardware and source; asks for no measurement.
rule report:
    log:
        "results/report.log",
    params:
        sources=config["report"]["sources"],
    shell:
        "python3 workflow/scripts/write_reports.py --sources {params.sources} --owner $PPID 2> {log}"


# After a failure the report is made of what there is.
onerror:
    for key in PLANS:
        shell("python3 workflow/scripts/write_reports.py --hardware {key} --sources {config[report][sources]}")
