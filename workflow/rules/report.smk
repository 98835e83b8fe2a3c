# Makes CSVs from points and reports from CSVs.


rule gather_points:
    input:
        points=table.points,
        stale=stale.csv(rows_of),
    output:
        update("results/{hardware}/{stage}/{model}/{dtype}/{backend}/{sparsity}/{model}-{dtype}_{stage}.csv"),
    log:
        "results/{hardware}/{stage}/{model}/{dtype}/{backend}/{sparsity}/gather.log",
    localrule: True
    params:
        parameters=lambda w: table.measuring(w.hardware, w.stage),
    shell:
        'rm -rf .snakemake/backups/{output}; python3 "$programs"/gather_points.py --points {input.points}'
        " --parameters {params.parameters:q} --output {output} --owner $owner 2> {log}"


# Programs write these files only where their content changes. contents.csv stands for the folder of tables and figures.
rule write_report:
    input:
        csvs=lambda w: table.csvs(w.hardware) + table.task_csvs(w.hardware),
        stale=stale.plan,
    output:
        *[update(f"results/{{hardware}}/report.{language}.md") for language in LANGUAGES],
        *[
            report(
                update(f"results/{{hardware}}/report.{language}.html"),
                caption="../report/report.rst",
                category="Reports",
                labels={"hardware": "{hardware}", "language": language},
            )
            for language in LANGUAGES
        ],
        update("results/{hardware}/report/contents.csv"),
        update("results/{hardware}/tasks.csv"),
    log:
        "results/{hardware}/report.log",
    localrule: True
    params:
        csvs=lambda w: table.csvs(w.hardware) + table.task_csvs(w.hardware),
        sources=config["report"]["sources"],
        languages=LANGUAGES,
        left_out=lambda w: table.left_out[w.hardware],
    shell:
        'python3 "$programs"/write_reports.py --hardware {wildcards.hardware} --sources {params.sources:q}'
        " --languages {params.languages:q} --owner $owner 2> {log}"


# Compares the planned hardware and all other hardware that the sources hold.
rule write_comparison:
    input:
        [path for path in REPORTS if path.endswith(f"report.{LANGUAGES[0]}.md")],
    output:
        *[update(f"results/comparison.{language}.md") for language in LANGUAGES],
        *[
            report(
                update(f"results/comparison.{language}.html"),
                caption="../report/comparison.rst",
                category="Reports",
                labels={"hardware": "all", "language": language},
            )
            for language in LANGUAGES
        ],
        update("results/comparison/contents.csv"),
    log:
        "results/comparison.log",
    localrule: True
    params:
        reports=REPORTS,
        sources=config["report"]["sources"],
        languages=LANGUAGES,
    shell:
        'python3 "$programs"/write_comparison.py --sources {params.sources:q} --languages {params.languages:q}'
        " --owner $owner 2> {log}"


# Reports all that exists, of every hardware and source, and asks for no measurement. It is the only job of its run, so
# it uses all CPUs.
rule report:
    log:
        "results/report.log",
    localrule: True
    params:
        sources=config["report"]["sources"],
        languages=LANGUAGES,
    shell:
        'python3 "$programs"/write_reports.py --sources {params.sources:q} --languages {params.languages:q}'
        " --owner $owner 2> {log}"


# After a failure, the report is made from the points that exist, unless the results were moved away with their lock.
onerror:
    display.reported = []
    for key in table.plans if os.path.exists("results/.lock") else []:
        with suppress(CalledProcessError):  # it has said why
            if os.path.isdir(f"results/{key}"):
                shell(
                    'python3 "$programs"/write_reports.py --hardware {key} --sources {config[report][sources]:q}'
                    " --languages {LANGUAGES:q} --owner $owner"
                )
                display.reported.append(key)
