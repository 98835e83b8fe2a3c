# Refuses what is asked for by a path that nothing makes. Snakemake would not say what is near. Included last.
from slidesparse.plan import targets

try:
    targets.refuse_unknown(
        sys.argv[1:],
        table,
        lambda path: [rule.get_wildcards(path) for rule in workflow.rules if rule.is_producer(path)],
        [*REPORTS, f"results/comparison.{LANGUAGES[0]}.md"],
    )
except SlideSparseError as error:
    raise WorkflowError(str(error))
